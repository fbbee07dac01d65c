"""ImageSet: labelled images in memory, and the places they come from."""

from __future__ import annotations

import gzip
import inspect
import os
import struct
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..core.batch import Batch

if TYPE_CHECKING:
    from PIL.Image import Image

Split = Literal["train", "test"]

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size with their classes.

    Attributes:
        images: (N, C, H, W), uint8, or float32 in [0, 1].
        labels: (N,) int64, positions in ``classes``.
        classes: the names of the classes.
        split: which part of the data this is, ``"train"`` or ``"test"``.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    split: Split

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
        if len(self) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise ValueError(
                f"labels reach from {int(self.labels.min())} to {int(self.labels.max())}; "
                f"expected positions among {len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Tensor) -> ImageSet:
        """The images ``index`` (int64, (n,)), copied."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def of(self, classes: Iterable[int]) -> ImageSet:
        """The images of some classes; labels and class names stay as they are."""
        return self.rows(torch.isin(self.labels, torch.tensor(sorted(classes), dtype=torch.int64)).nonzero().squeeze(1))

    def batch(self, index: Tensor | None = None) -> Batch:
        """``{"input": float32 (n, C, H, W) in [0, 1], "label": int64 (n,)}`` of the images ``index``, or of all.

        >>> digits().batch(torch.arange(2))["input"].shape
        torch.Size([2, 1, 8, 8])
        """
        chosen = self if index is None else self.rows(index)
        images = chosen.images
        return {"input": images.float() / 255 if images.dtype == torch.uint8 else images, "label": chosen.labels}


def digits(split: Split = "train") -> ImageSet:
    """The 1,797 handwritten digits that come with scikit-learn: 8x8, one channel, float32 in [0, 1].

    A fixed 70 : 30 split, the same shares of every class.

    >>> digits("train").images.shape, digits("test").images.shape
    (torch.Size([1258, 1, 8, 8]), torch.Size([539, 1, 8, 8]))
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    labels = torch.from_numpy(source.target).long()
    index = stratified_split(labels, test_fraction=0.3, generator=torch.Generator().manual_seed(0))[_check(split)]
    images = torch.from_numpy(source.images).float().div(16).unsqueeze(1)
    return ImageSet(images[index], labels[index], tuple(str(digit) for digit in range(10)), split)


def torchvision_dataset(
    name: str,
    split: Split = "train",
    *,
    root: str | Path | None = None,
    download: bool = True,
    size: int | None = None,
    **options: Any,
) -> ImageSet:
    """A classification data set of ``torchvision.datasets`` by its class name (MNIST, CIFAR100, Omniglot ...).

    MNIST is also read from the four original ``.gz`` files when they lie in ``root/mnist``; nothing is written there.

    Args:
        split: ``"train"`` or ``"test"``, whatever the data set itself calls them.
        root: the folder of the data; by default ``$MEMREPLAY_DATA`` for MNIST where that has it, otherwise
            ``~/.cache/memreplay``.
        download: fetch the data when it is not there.
        size: side in pixels to which images are cropped and resized; needed where they differ in size.
        options: further arguments of the torchvision class, such as ``split="letters"`` for EMNIST.

    Raises:
        ValueError: no such data set, one without a train and a test part, images that differ in size.
    """
    _check(split)
    if name == "MNIST":
        original = Path(root or os.environ.get("MEMREPLAY_DATA", "")) / "mnist"
        if (original / "train-images-idx3-ubyte.gz").is_file():
            return _mnist(original, split, size)

    from torchvision import datasets

    if name not in datasets.__all__:
        raise ValueError(f"name is {name!r}; expected a data set of torchvision.datasets, such as 'CIFAR100'")
    build = getattr(datasets, name)
    parameters = inspect.signature(build).parameters
    if "train" in parameters:
        options["train"] = split == "train"
    elif "background" in parameters:
        options["background"] = split == "train"
    elif "split" in parameters and "split" not in options:
        options["split"] = split
    else:
        raise ValueError(f"name is {name!r}, which has no train and test part; expected one that has")
    if "download" in parameters:
        options["download"] = download
    dataset = build(root=str(root or Path.home() / ".cache" / "memreplay"), **options)
    pairs = [dataset[i] for i in range(len(dataset))]
    labels = torch.tensor([int(label) for _, label in pairs])
    classes = getattr(dataset, "classes", None) or range(int(labels.max()) + 1)
    mode = "L" if pairs[0][0].mode in ("1", "L") else "RGB"
    images = [_pixels(image, mode, size) for image, _ in pairs]
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"the images of {name} differ in size; expected a size to bring them to, size is {size}")
    return ImageSet(torch.stack(images), labels, tuple(str(name) for name in classes), split)


def image_folder(
    root: str | Path,
    split: Split = "train",
    *,
    size: int = 84,
    test_fraction: float = 0.2,
    seed: int = 0,
    on_corrupt: Literal["error", "skip"] = "error",
    cache: str | Path | None = None,
) -> ImageSet:
    """Images of one's own, a folder per class: ``root/train/<class>/*.jpg`` with ``root/test`` or ``root/val`` beside
    it, or just ``root/<class>/*.jpg``, which is then split by chance, the same shares of every class.

    All images come out RGB (grey, palette and CMYK ones are converted), turned upright, cropped to a square about the
    centre and resized to ``size``.

    Args:
        test_fraction: share of every class that becomes the test part where ``root`` has none.
        seed: of that split.
        on_corrupt: a file that cannot be decoded raises an error that names it, or is left out with a warning.
        cache: a file for the decoded pixels, which then stay on disk (3 * size * size bytes per image) instead of
            filling the memory. It is written anew by every call.

    Raises:
        FileNotFoundError: ``root`` is no folder.
        ValueError: no classes, a class without images, classes that differ between the parts, a corrupt image.
    """
    _check(split)
    if on_corrupt not in ("error", "skip"):
        raise ValueError(f"on_corrupt is {on_corrupt!r}; expected 'error' or 'skip'")
    files, labels, classes = _listing(Path(root), split, test_fraction, seed)
    images, readable = _decode_all(files, size, on_corrupt, cache)
    labels = labels[readable]
    for label, name in enumerate(classes):
        if not bool((labels == label).any()):
            raise ValueError(f"class {name!r} of {root} has no image in its {split} part; expected at least one")
    return ImageSet(images, labels, classes, split)


class Data(ABC):
    """Where a run's images come from, as a choice that can be written down."""

    @abstractmethod
    def load(self, split: Split) -> ImageSet:
        """The images of ``"train"`` or ``"test"``."""


@dataclass(frozen=True)
class Digits(Data):
    """See `digits`."""

    def load(self, split: Split) -> ImageSet:
        return digits(split)


@dataclass(frozen=True)
class TorchvisionData(Data):
    """See `torchvision_dataset`.

    Args:
        name: class in ``torchvision.datasets``, such as ``CIFAR100``.
        root: the folder of the data.
        download: fetch the data when it is not there.
        size: side in pixels to resize to.
    """

    name: str
    root: str | None = None
    download: bool = True
    size: int | None = None

    def load(self, split: Split) -> ImageSet:
        return torchvision_dataset(self.name, split, root=self.root, download=self.download, size=self.size)


@dataclass(frozen=True)
class ImageFolder(Data):
    """See `image_folder`.

    Args:
        root: folder with a folder of images per class, or with ``train`` and ``test`` that have these.
        size: side in pixels to resize to.
        test_fraction: share of every class that becomes the test part where ``root`` has none.
        seed: of that split.
        on_corrupt: whether a file that cannot be decoded is an error, or is left out with a warning.
    """

    root: str
    size: int = 84
    test_fraction: float = 0.2
    seed: int = 0
    on_corrupt: Literal["error", "skip"] = "error"

    def load(self, split: Split) -> ImageSet:
        return image_folder(
            self.root,
            split,
            size=self.size,
            test_fraction=self.test_fraction,
            seed=self.seed,
            on_corrupt=self.on_corrupt,
        )


def stratified_split(labels: Tensor, *, test_fraction: float, generator: torch.Generator) -> dict[Split, Tensor]:
    """Positions (int64, ascending) of a train and a test part with equal shares of every class.

    A class of at least two rows has at least one in either part; the only row of a class is for training.

    >>> parts = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1]), test_fraction=0.5, generator=torch.Generator())
    >>> len(parts["train"]), len(parts["test"])
    (3, 3)
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction is {test_fraction}; expected a share between 0 and 1")
    in_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero().squeeze(1)
        test_rows = min(max(1, round(len(rows) * test_fraction)), len(rows) - 1)
        in_test[rows[torch.randperm(len(rows), generator=generator)[:test_rows]]] = True
    return {"train": (~in_test).nonzero().squeeze(1), "test": in_test.nonzero().squeeze(1)}


def _check(split: Split) -> Split:
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    return split


def _mnist(folder: Path, split: Split, size: int | None) -> ImageSet:
    stem = "train" if split == "train" else "t10k"
    images = _idx(folder / f"{stem}-images-idx3-ubyte.gz").unsqueeze(1)
    labels = _idx(folder / f"{stem}-labels-idx1-ubyte.gz").long()
    if size is not None and size != images.shape[-1]:
        from torchvision.transforms.functional import resize

        images = torch.cat([resize(part, [size, size], antialias=True) for part in images.split(4096)])
    return ImageSet(images, labels, tuple(str(digit) for digit in range(10)), split)


def _idx(path: Path) -> Tensor:
    """The array of a gzipped IDX file of bytes: two zeros, type 8, the number of dimensions, their sizes, the bytes."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} starts with {content[:4]!r}; expected an IDX file of bytes")
    dimensions = content[3]
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * dimensions).reshape(shape)


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
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
        if not found:
            raise ValueError(f"class {name!r} has no images in {folder / name}; expected at least one")
        files += found
        labels += [label] * len(found)
    return files, torch.tensor(labels)


def _decode_all(files: Sequence[Path], size: int, on_corrupt: str, cache: str | Path | None) -> tuple[Tensor, Tensor]:
    """The pixels (n, 3, size, size) of the files that can be read, and the positions of those."""
    from tqdm import tqdm

    if cache is None:
        images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    else:
        pixels = torch.from_file(str(cache), shared=True, size=len(files) * 3 * size * size, dtype=torch.uint8)
        images = pixels.view(len(files), 3, size, size)
    readable: list[int] = []
    with ThreadPoolExecutor() as threads:
        decoded = threads.map(lambda file: _read(file, size), files)
        for position, image in enumerate(tqdm(decoded, "images", len(files), disable=None, leave=False)):
            if isinstance(image, Exception):
                message = f"{files[position]} is no image that can be read: {image}"
                if on_corrupt == "error":
                    threads.shutdown(cancel_futures=True)
                    raise ValueError(message) from image
                warnings.warn(f"left out: {message}", stacklevel=3)
            else:
                images[len(readable)] = image
                readable.append(position)
    return images[: len(readable)], torch.tensor(readable, dtype=torch.int64)


def _read(file: Path, size: int) -> Tensor | Exception:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            return _pixels(ImageOps.exif_transpose(image), "RGB", size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return error


def _pixels(image: Image, mode: str, size: int | None) -> Tensor:
    """uint8 (C, H, W) of one image."""
    from PIL import Image, ImageOps

    if image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 256).convert("L")
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, -1).permute(2, 0, 1)
