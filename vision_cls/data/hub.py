"""HubData: images of a data set on the Hugging Face Hub, or of one that was saved to a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .decoding import pixels
from .image_set import ImageSet, Split, checked, stratified_split
from .source import Data

_PARTS = {"train": ("train",), "test": ("test", "validation", "valid", "val")}


@dataclass(frozen=True)
class HubData(Data):
    """A data set with a column of images and one of classes, through the library ``datasets``.

    Args:
        path: its id on the Hub, such as ``owner/name``; a folder of ``save_to_disk``; or a folder of parquet files or
            images as ``load_dataset`` knows them.
        name: its configuration, where it has several.
        image: the column with the images.
        label: the column with the classes, as numbers or names.
        train: its part to learn from.
        test: its part to be judged on; by default the first that it has of test, validation, valid and val. Without
            one, and if it is the part ``train`` itself, that part is split by chance, the same shares of every class.
        size: side in pixels to crop and resize to.
        test_fraction: share of every class for that split.
        seed: of that split.

    Raises:
        ValueError: no such data set, part or column, or a part without rows.
    """

    path: str
    name: str | None = None
    image: str = "image"
    label: str = "label"
    train: str = "train"
    test: str | None = None
    size: int = 84
    test_fraction: float = 0.2
    seed: int = 0

    def load(self, split: Split) -> ImageSet:
        parts = self._parts()
        if self.train not in parts:
            raise ValueError(f"train is {self.train!r}, which {self.path} has not; it has {', '.join(parts)}")
        test = self.test or next((part for part in _PARTS["test"] if part in parts), self.train)
        if test not in parts:
            raise ValueError(f"test is {test!r}, which {self.path} has not; it has {', '.join(parts)}")
        classes = self._classes(parts[self.train])
        table = parts[self.train if checked(split) == "train" else test]
        images = self._images(table, classes, split)
        if test != self.train:
            return images
        generator = torch.Generator().manual_seed(self.seed)
        index = stratified_split(images.labels, test_fraction=self.test_fraction, generator=generator)
        return images.rows(index[split])

    def _parts(self) -> dict[str, Any]:
        """The parts of the data set by name."""
        import datasets

        folder = Path(self.path)
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            loaded: Any = datasets.load_from_disk(self.path)
        else:
            try:
                loaded = datasets.load_dataset(self.path, self.name)
            except (datasets.exceptions.DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
                raise ValueError(f"path is {self.path!r}, which cannot be loaded: {error}") from error
        return dict(loaded) if isinstance(loaded, dict) else {self.train: loaded}

    def _classes(self, table: Any) -> tuple[str, ...]:
        """Names of the classes: those that the data set lists, or else those that occur, sorted."""
        for argument, column in (("image", self.image), ("label", self.label)):
            if column not in table.column_names:
                raise ValueError(
                    f"{argument} is {column!r}; {self.path} has the columns {', '.join(table.column_names)}"
                )
        listed = getattr(table.features[self.label], "names", None)
        return tuple(str(name) for name in (listed or sorted(set(table[self.label]))))

    def _images(self, table: Any, classes: tuple[str, ...], split: Split) -> ImageSet:
        """The rows of a part; names that no class of the part to learn from has are refused."""
        if not len(table):
            raise ValueError(f"path is {self.path!r}, which has no rows for {split}; expected some")
        by_number = getattr(table.features[self.label], "names", None) is not None
        number = {name: i for i, name in enumerate(classes)}
        images = torch.empty(len(table), 3, self.size, self.size, dtype=torch.uint8)
        labels = torch.empty(len(table), dtype=torch.int64)
        for i, row in enumerate(table):
            images[i] = pixels(row[self.image], "RGB", self.size)
            label = row[self.label]
            if not by_number and str(label) not in number:
                raise ValueError(f"{split} has the class {label!r} in row {i}; expected one that {self.train!r} has")
            labels[i] = label if by_number else number[str(label)]
        return ImageSet(images, labels, classes, split)
