"""TorchvisionData: the classification data sets of torchvision, by name."""

from __future__ import annotations

import gzip
import inspect
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .decoding import pixels
from .image_set import ImageSet, Split, checked
from .source import Data


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
    checked(split)
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
    place = root or Path.home() / ".cache" / "memreplay"
    try:
        dataset = build(root=str(place), **options)
    except (OSError, RuntimeError) as error:  # torchvision raises either where data is not there or cannot be fetched
        said = str(error).partition("\n")[0]
        raise ValueError(f"root is {str(place)!r}, where there is no {name} that can be read: {said}") from error
    pairs = [dataset[i] for i in range(len(dataset))]
    labels = torch.tensor([int(label) for _, label in pairs])
    classes = getattr(dataset, "classes", None) or range(int(labels.max()) + 1)
    mode = "L" if pairs[0][0].mode in ("1", "L") else "RGB"
    images = [pixels(image, mode, size) for image, _ in pairs]
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"the images of {name} differ in size; expected a size to bring them to, size is {size}")
    return ImageSet(torch.stack(images), labels, tuple(str(name) for name in classes), split)


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
