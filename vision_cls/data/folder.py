"""ImageFolder: images of one's own, a folder per class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .decoding import SUFFIXES, decode_all
from .image_set import ImageSet, Split, checked, stratified_split
from .source import Data


def image_folder(
    root: str | Path,
    split: Split = "train",
    *,
    size: int = 84,
    test_fraction: float = 0.2,
    seed: int = 0,
    on_corrupt: Literal["error", "skip"] = "error",
    cache: str | Path | None = None,
    channels: int = 3,
) -> ImageSet:
    """Images of one's own, a folder per class: ``root/train/<class>/*.jpg`` with ``root/test`` or ``root/val`` beside
    it, or just ``root/<class>/*.jpg``, which is then split by chance, the same shares of every class.

    All images come out RGB (grey, palette and CMYK ones are converted), turned upright, cropped to a square about the
    centre and resized to ``size``.

    Args:
        test_fraction: share of every class that becomes the test part where ``root`` has none. With 0 all images are
            for training, with 1 all for testing.
        seed: of that split.
        on_corrupt: a file that cannot be decoded raises an error that names it, or is left out with a warning.
        cache: a file for the decoded pixels, which then stay on disk (3 * size * size bytes per image) instead of
            filling the memory. It is written anew by every call.
        channels: 3, or 1 for grey images.

    Raises:
        FileNotFoundError: ``root`` is no folder.
        ValueError: no classes, a class without images, classes that differ between the parts, a corrupt image.
    """
    checked(split)
    if on_corrupt not in ("error", "skip"):
        raise ValueError(f"on_corrupt is {on_corrupt!r}; expected 'error' or 'skip'")
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; expected 3, or 1 for grey images")
    files, labels, classes = _listing(Path(root), split, test_fraction, seed)
    images, readable = decode_all(files, size, on_corrupt, cache, channels)
    labels = labels[readable]
    empty = [name for name, n in zip(classes, labels.bincount(minlength=len(classes)).tolist(), strict=True) if not n]
    if empty and split == "train":
        raise ValueError(f"class {empty[0]!r} of {root} has no image in its train part; expected at least one")
    if empty:
        warnings.warn(f"of {', '.join(map(repr, empty))} in {root} there is no test image", stacklevel=2)
    return ImageSet(images, labels, classes, split, tuple(str(files[i]) for i in readable.tolist()))


@dataclass(frozen=True)
class ImageFolder(Data):
    """See `image_folder`.

    Args:
        root: folder with a folder of images per class, or with ``train`` and ``test`` that have these.
        size: side in pixels to resize to.
        test_fraction: share of every class that becomes the test part where ``root`` has none.
        seed: of that split.
        on_corrupt: whether a file that cannot be decoded is an error, or is left out with a warning.
        cache: a folder for the decoded pixels, for data larger than memory; null: they are held in memory.
        channels: 3, or 1 for grey images.
    """

    root: str
    size: int = 84
    test_fraction: float = 0.2
    seed: int = 0
    on_corrupt: Literal["error", "skip"] = "error"
    cache: str | None = None
    channels: int = 3

    def load(self, split: Split) -> ImageSet:
        cache = None
        if self.cache is not None:
            Path(self.cache).mkdir(parents=True, exist_ok=True)
            cache = Path(self.cache, f"{split}.pixels")  # the parts are in use at the same time
        return image_folder(
            self.root,
            split,
            size=self.size,
            test_fraction=self.test_fraction,
            seed=self.seed,
            on_corrupt=self.on_corrupt,
            cache=cache,
            channels=self.channels,
        )


def _listing(root: Path, split: Split, test_fraction: float, seed: int) -> tuple[list[Path], Tensor, tuple[str, ...]]:
    """Files, labels and class names of one part of an image folder."""
    if not root.is_dir():
        raise FileNotFoundError(f"root is {str(root)!r}; expected a folder with a folder of images per class")
    if (root / "train").is_dir():
        test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
        if test is None:
            raise ValueError(f"{root} has a folder 'train'; expected a folder 'test' or 'val' beside it")
        classes = _class_names(root / "train")
        if (others := _class_names(test)) != classes:
            differing = sorted(set(classes).symmetric_difference(others))
            raise ValueError(f"{root / 'train'} and {test} differ in the classes {differing}; expected the same")
        files, labels = _images_of(root / "train" if split == "train" else test, classes)
        return files, labels, classes
    classes = _class_names(root)
    files, labels = _images_of(root, classes)
    index = stratified_split(labels, test_fraction=test_fraction, generator=torch.Generator().manual_seed(seed))[split]
    return [files[i] for i in index.tolist()], labels[index], classes


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not names:
        raise ValueError(f"{folder} has no folders; expected one per class")
    return names


def _images_of(folder: Path, classes: Sequence[str]) -> tuple[list[Path], Tensor]:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise ValueError(f"class {name!r} has no images in {folder / name}; expected at least one")
        files += found
        labels += [label] * len(found)
    return files, torch.tensor(labels)
