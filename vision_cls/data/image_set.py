"""ImageSet: labelled images in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ...core.batch import Batch

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size with their classes.

    Attributes:
        images: (N, C, H, W), uint8, or float32 in [0, 1].
        labels: (N,) int64, positions in ``classes``.
        classes: the names of the classes.
        split: which part of the data this is, ``"train"`` or ``"test"``.
        sources: the file of each image, where they have one; otherwise none at all.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    split: Split
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                f"images has shape {tuple(self.images.shape)} and is {self.images.dtype}; "
                "expected (N, C, H, W), uint8 or float32"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels has shape {tuple(self.labels.shape)} and is {self.labels.dtype}; "
                f"expected ({len(self.images)},), int64"
            )
        if len(self.sources) not in (0, len(self)):
            raise ValueError(f"sources has {len(self.sources)} files; expected one for each of {len(self)} images")
        if len(self) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise ValueError(
                f"labels reach from {int(self.labels.min())} to {int(self.labels.max())}; "
                f"expected positions among {len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """The class of each image, by name."""
        return [self.classes[label] for label in self.labels.tolist()]

    def rows(self, index: Tensor) -> ImageSet:
        """The images ``index`` (int64, (n,)), copied."""
        sources = tuple(self.sources[i] for i in index.tolist()) if self.sources else ()
        return replace(self, images=self.images[index], labels=self.labels[index], sources=sources)

    def part(self, index: Tensor) -> ImageSet:
        """The images ``index``, each named once. Where these are all there are, they come in their own order and are
        not copied: they may be larger than the memory."""
        return self if len(index) == len(self) else self.rows(index)

    def of(self, classes: Iterable[int]) -> ImageSet:
        """The images of some classes; labels and class names stay as they are."""
        return self.rows(torch.isin(self.labels, torch.tensor(sorted(classes), dtype=torch.int64)).nonzero().squeeze(1))

    def of_classes(self, names: Sequence[str]) -> ImageSet:
        """The images of the classes of these names, which are then the only ones, numbered in the order given.

        Raises:
            ValueError: a name twice, or one that is no class.

        >>> images = ImageSet(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 2]), ("a", "b", "c"), "train")
        >>> images.of_classes(["c", "a"]).labels
        tensor([1, 0])
        """
        place = {name: number for number, name in enumerate(self.classes)}
        if unknown := [name for name in names if name not in place]:
            raise ValueError(f"names has {unknown[:5]}, {len(unknown)} in all, of which there are no images")
        number = torch.full((len(self.classes),), -1)
        number[[place[name] for name in names]] = torch.arange(len(names))
        if len(set(names)) < len(names):
            raise ValueError(f"names has {len(names)} classes, {len(set(names))} of them distinct; expected each once")
        kept = (number[self.labels] >= 0).nonzero().squeeze(1)
        return replace(self.rows(kept), labels=number[self.labels[kept]], classes=tuple(names))

    def batch(self, index: Tensor | None = None) -> Batch:
        """``{"input": float32 (n, C, H, W) in [0, 1], "label": int64 (n,)}`` of the images ``index``, or of all.

        >>> images = ImageSet(torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64), ("zero",), "train")
        >>> images.batch(torch.arange(2))["input"].shape
        torch.Size([2, 1, 8, 8])
        """
        chosen = self if index is None else self.rows(index)
        images = chosen.images
        return {"input": images.float() / 255 if images.dtype == torch.uint8 else images, "label": chosen.labels}

    def stored(self) -> Batch:
        """``{"input": (N, C, H, W), "label": int64 (N,)}`` of all images, of the dtype they have, not copied."""
        return {"input": self.images, "label": self.labels}


def stratified_split(labels: Tensor, *, test_fraction: float, generator: torch.Generator) -> dict[Split, Tensor]:
    """Positions (int64, ascending) of a train and a test part with equal shares of every class.

    A class of at least two rows has at least one in either part; the only row of a class is for training. With 0 all
    rows are for training, with 1 none.

    >>> parts = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1]), test_fraction=0.5, generator=torch.Generator())
    >>> len(parts["train"]), len(parts["test"])
    (3, 3)
    """
    if not 0 <= test_fraction <= 1:
        raise ValueError(f"test_fraction is {test_fraction}; expected a share from 0 to 1")
    in_test = torch.full((len(labels),), test_fraction == 1)
    for label in labels.unique() if 0 < test_fraction < 1 else ():
        rows = (labels == label).nonzero().squeeze(1)
        test_rows = min(max(1, round(len(rows) * test_fraction)), len(rows) - 1)
        in_test[rows[torch.randperm(len(rows), generator=generator)[:test_rows]]] = True
    return {"train": (~in_test).nonzero().squeeze(1), "test": in_test.nonzero().squeeze(1)}


def checked(split: Split) -> Split:
    """The split itself, if it is one."""
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    return split
