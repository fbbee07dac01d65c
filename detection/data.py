"""DetectionSet: images with boxes, read when they are needed."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..core.loading import EpochSampler
from ..core.protocols.seeding import generator_at


class Files(Protocol):
    """Where images lie."""

    def read(self, name: str) -> Tensor:
        """An image by its name, uint8 (3, H, W)."""
        ...


@dataclass(frozen=True)
class Picture:
    """An image and what is on it.

    Attributes:
        name: of its file; unique in a data set.
        size: height and width in pixels.
        boxes: float32 (N, 4), x1, y1, x2, y2 in pixels, within the image.
        labels: int64 (N,), positions among the classes of the data set.
        hard: bool (N,): a crowd, or marked as difficult. Such a box is not learned from, and to find it or not is
            neither right nor wrong.
    """

    name: str
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    hard: Tensor

    def only(self, index: Tensor) -> Picture:
        """With some of its boxes (positions, or a mask)."""
        return replace(self, boxes=self.boxes[index], labels=self.labels[index], hard=self.hard[index])


class DetectionSet:
    """Images with boxes of classes.

    Args:
        classes: their names; their positions are the labels.
        pictures: what is on which image. Images without boxes may be among them: all there is background.
        files: where the images lie.

    Raises:
        ValueError: no image, a name twice, or a label without class.
    """

    def __init__(self, classes: Sequence[str], pictures: Sequence[Picture], files: Files) -> None:
        self.classes = tuple(classes)
        self.pictures = list(pictures)
        self.files = files
        if not self.pictures:
            raise ValueError("pictures is empty; expected at least one image")
        for what, names in (("classes", self.classes), ("pictures", [picture.name for picture in self.pictures])):
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"{what} has {twice!r} twice; expected every name once")
        for picture in self.pictures:
            if len(picture.labels) and not 0 <= int(picture.labels.min()) <= int(picture.labels.max()) < len(classes):
                raise ValueError(f"{picture.name} has labels {picture.labels.tolist()} of {len(classes)} classes")

    def __len__(self) -> int:
        return len(self.pictures)

    def counts(self) -> dict[str, int]:
        """Boxes of every class, without those that are hard."""
        labels = torch.cat([picture.labels[~picture.hard] for picture in self.pictures])
        found = torch.bincount(labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, found, strict=True))

    def of(self, classes: Sequence[str], *, empty: bool = False) -> DetectionSet:
        """The boxes of some classes, which become its classes in this order.

        Args:
            empty: whether to keep images on which there is none of them.

        Raises:
            ValueError: an unknown class, or no image is left.
        """
        places = torch.full((len(self.classes),), -1)
        for place, name in enumerate(classes):
            if name not in self.classes:
                raise ValueError(f"classes has {name!r}; expected some of {', '.join(self.classes)}")
            places[self.classes.index(name)] = place
        chosen = []
        for picture in self.pictures:
            own = picture.only(places[picture.labels] >= 0)
            if empty or not own.hard.all():
                chosen.append(replace(own, labels=places[own.labels]))
        return DetectionSet(classes, chosen, self.files)

    def first(self, n: int) -> DetectionSet:
        """The first ``n`` images."""
        return DetectionSet(self.classes, self.pictures[:n], self.files)

    def split(self, n: int, seed: int = 0) -> tuple[DetectionSet, DetectionSet]:
        """``n`` images chosen by ``seed``, and the rest.

        Raises:
            ValueError: there are not more than ``n``.
        """
        order = torch.randperm(len(self), generator=generator_at(seed, "images")).tolist()
        parts = [self.pictures[i] for i in order[:n]], [self.pictures[i] for i in order[n:]]
        one, other = (DetectionSet(self.classes, part, self.files) for part in parts)
        return one, other

    def image(self, index: int) -> Tensor:
        """An image, uint8 (3, H, W).

        Raises:
            ValueError: it is not as high and wide as the annotations say.
        """
        picture = self.pictures[index]
        image = self.files.read(picture.name)
        if tuple(image.shape[1:]) != picture.size:
            high, wide = picture.size
            raise ValueError(
                f"{picture.name} is {image.shape[2]} x {image.shape[1]} pixels; its annotations say {wide} x {high}"
            )
        return image

    def digest(self) -> str:
        """A hash of the annotations."""
        described = [[p.name, p.size, p.boxes.tolist(), p.labels.tolist(), p.hard.tolist()] for p in self.pictures]
        return hashlib.sha256(json.dumps([self.classes, described]).encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"DetectionSet({len(self)} images, {sum(self.counts().values())} boxes, {len(self.classes)} classes)"


class DetectionData(ABC):
    """Where images with boxes come from, as a choice that can be written down."""

    @abstractmethod
    def load(self) -> DetectionSet:
        """Reads the annotations, and of the images nothing yet."""


class Examples(Dataset[Any]):
    """Images to learn from, without their hard boxes; flipped by the seed, the epoch and the image alone."""

    def __init__(self, data: DetectionSet, flip: float = 0.0, seed: int = 0) -> None:
        self.data, self.flip, self.seed, self.epoch = data, flip, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The flips are those of ``epoch``."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        picture = self.data.pictures[index]
        image, boxes = self.data.image(index), picture.boxes[~picture.hard]
        if torch.rand((), generator=generator_at(self.seed, "flip", self.epoch, index)) < self.flip:
            image, boxes = flipped(image, boxes)
        return {"image": image, "boxes": boxes, "label": picture.labels[~picture.hard], "id": torch.tensor(index)}


def in_unit(image: Tensor) -> Tensor:
    """An image, uint8 or floats in [0, 1], as the latter."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def flipped(image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """An image and its boxes, left and right exchanged."""
    left, top, right, bottom = boxes.unbind(1)
    width = image.shape[2]
    return image.flip(2), torch.stack([width - right, top, width - left, bottom], 1)


def image_batches(
    data: DetectionSet, size: int, *, shuffle: bool = True, flip: float = 0.5, seed: int = 0
) -> DataLoader[Any]:
    """A loader of `Images`: lists, because images differ in size.

    With a shuffled order the last, smaller batch of an epoch is left out, unless it is the only one.

    Args:
        size: images per batch.
        flip: how often an image is flipped, from never (0) to always (1).
        seed: of the order and the flips.

    Raises:
        ValueError: ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}; expected at least one image per batch")
    sampler = OrientedSampler([high > wide for high, wide in (p.size for p in data.pictures)], size, seed)
    return DataLoader(
        Examples(data, flip, seed),
        batch_size=size,
        sampler=sampler if shuffle else EpochSampler(len(data), shuffle=False),
        drop_last=shuffle and len(data) >= size,
        collate_fn=as_lists,
    )


class OrientedSampler(EpochSampler):
    """The order of an `EpochSampler`, changed so that images of a batch stand all upright, or none does: what a batch
    costs is decided by its highest and its widest image. Those that are left over, less than a batch of each kind, come
    last.

    Args:
        upright: which of the images are higher than wide.
        batch_size: images per batch.
        seed: of the order.

    >>> sampler = OrientedSampler([True, False, True, False, False], 2)
    >>> [sampler.upright[i] for i in sampler][:4] in ([True, True, False, False], [False, False, True, True])
    True
    """

    def __init__(self, upright: Sequence[bool], batch_size: int, seed: int = 0) -> None:
        super().__init__(len(upright), seed)
        self.upright, self.batch_size = upright, batch_size

    def __iter__(self) -> Iterator[int]:
        waiting: dict[bool, list[int]] = {False: [], True: []}
        for index in super().__iter__():
            batch = waiting[self.upright[index]]
            batch.append(index)
            if len(batch) == self.batch_size:
                yield from batch
                batch.clear()
        yield from (index for index in super().__iter__() if index in {*waiting[False], *waiting[True]})


def as_lists(examples: Sequence[Mapping[str, Tensor]]) -> dict[str, list[Tensor]]:
    """Examples as columns of lists; nothing is stacked."""
    return {name: [example[name] for example in examples] for name in examples[0]}


class ImageFiles:
    """Images in a folder or a zip file, by their paths in it.

    Args:
        root: the folder, or the file.

    Raises:
        FileNotFoundError: there is none.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        if not self.root.exists():
            raise FileNotFoundError(f"images is {str(root)!r}; expected a folder or a zip file")
        self._archive: zipfile.ZipFile | None = None
        self._names: dict[str, str] = {}

    def read(self, name: str) -> Tensor:
        """An image, uint8 (3, H, W).

        Raises:
            FileNotFoundError: there is none of this name.
            ValueError: it cannot be decoded.
        """
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(BytesIO(self._bytes(name))) as opened:
                pixels = np.asarray(opened.convert("RGB"))
        except (UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise ValueError(f"{name} in {self.root} is no image that can be read: {error}") from error
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()

    def _bytes(self, name: str) -> bytes:
        if self.root.is_dir():
            return (self.root / name).read_bytes()
        if self._archive is None:
            self._archive = zipfile.ZipFile(self.root)
            self._names = {Path(inside).name: inside for inside in self._archive.namelist()}
        inside = name if name in self._archive.NameToInfo else self._names.get(Path(name).name)
        if inside is None:
            raise FileNotFoundError(f"{self.root} has no {name}")
        return self._archive.read(inside)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}  # every process and every copy opens the file for itself


class ImagesInMemory:
    """Images that are there already.

    Args:
        images: uint8 (3, H, W) by name.
    """

    def __init__(self, images: Mapping[str, Tensor]) -> None:
        self.images = images

    def read(self, name: str) -> Tensor:
        """An image."""
        return self.images[name]


def picture_of(
    name: str, size: tuple[int, int], boxes: Iterable[Sequence[float]], labels: Iterable[int], hard: Iterable[bool]
) -> tuple[Picture, list[str]]:
    """A picture from annotations as they come. Boxes are cut at the borders of the image; those that lie outside, or
    have no area, are left out.

    Returns:
        The picture, and what was left out, in words.

    Raises:
        ValueError: a box that has not four finite numbers.
    """
    high, wide = size
    rows = [list(map(float, box)) for box in boxes]
    if any(len(row) != 4 for row in rows) or not torch.tensor(rows).isfinite().all():
        raise ValueError(f"{name} has the boxes {rows}; expected four finite numbers each")
    given = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    cut = torch.stack([given[:, 0::2].clamp(0, wide), given[:, 1::2].clamp(0, high)], 2).flatten(1)
    good = (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
    marks = torch.tensor(list(hard), dtype=torch.bool)
    picture = Picture(name, size, cut, torch.tensor(list(labels), dtype=torch.int64), marks).only(good)
    return picture, [f"{given[i].tolist()} on {name} ({wide} x {high})" for i in (~good).nonzero()[:, 0].tolist()]


def warn_of(dropped: Sequence[str]) -> None:
    """Says how many boxes were left out, and which was the first."""
    if dropped:
        warnings.warn(
            f"{len(dropped)} boxes have no area within their image and are left out, such as {dropped[0]}", stacklevel=3
        )
