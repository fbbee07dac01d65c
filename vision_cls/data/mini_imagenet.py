"""MiniImageNet: a hundred classes of ImageNet with 600 small images each, parted 64 / 16 / 20."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from .archive import Archive, root_of
from .class_parts import ClassData, ClassParts
from .image_set import ImageSet

VALIDATION = (
    "n01855672", "n02091244", "n02114548", "n02138441", "n02174001", "n02950826", "n02971356", "n02981792",
    "n03075370", "n03417042", "n03535780", "n03584254", "n03770439", "n03773504", "n03980874", "n09256479",
)  # fmt: skip
NOVEL = (
    "n01930112", "n01981276", "n02099601", "n02110063", "n02110341", "n02116738", "n02129165", "n02219486",
    "n02443484", "n02871525", "n03127925", "n03146219", "n03272010", "n03544143", "n03775546", "n04146614",
    "n04149813", "n04418357", "n04522168", "n07613480",
)  # fmt: skip

_SUFFIXES = (".JPEG", ".jpg", ".jpeg", ".png", ".webp")
_CLASS = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class MiniImageNet(ClassData):
    """mini-ImageNet with the split of Ravi and Larochelle (Optimization as a Model for Few-Shot Learning, ICLR 2017):
    64 classes are the base, 16 validation, 20 novel, called by their WordNet ids.

    ``root`` holds the images themselves, or zip files of them, or both, in folders of any name. Every image has the
    WordNet id of its class in its path: ``train/n01532829/1.jpg`` will do, as will ``images/n0153282900000005.jpg``.
    Folders ``mini_imagenet``, ``miniImageNet`` and ``mini_imagenet_fscil`` in ``root`` are looked for first.

    Args:
        root: by default ``$MEMREPLAY_DATA``.
        size: side in pixels to resize to.

    Raises:
        FileNotFoundError: no image with an id in its path.
        ValueError: a class of the split without images.
    """

    root: str | None = None
    size: int = 84

    def load(self) -> ClassParts:
        root = root_of(self.root)
        named = (root / name for name in ("mini_imagenet", "miniImageNet", "mini_imagenet_fscil"))
        folder = next((path for path in named if path.is_dir()), root)
        if not folder.is_dir():
            raise FileNotFoundError(f"root is {str(root)!r}; expected a folder with the images of mini-ImageNet")
        parts: list[Tensor] = []
        labels: list[int] = []
        places: dict[str, int] = {}
        for archive in (Archive(folder), *(Archive(path) for path in sorted(folder.glob("*.zip")))):
            files = [(name, found[-1]) for name in archive.files(_SUFFIXES) if (found := _CLASS.findall(name))]
            parts.append(archive.pixels([name for name, _ in files], "RGB", self.size))
            labels += [places.setdefault(wnid, len(places)) for _, wnid in files]
        if not labels:
            raise FileNotFoundError(f"{folder} has no images with a WordNet id such as n01532829 in their paths")
        images = ImageSet(torch.cat(parts), torch.tensor(labels), tuple(places), "train")
        if missing := sorted({*VALIDATION, *NOVEL} - set(places)):
            raise ValueError(f"{folder} has no images of {missing[:5]}, {len(missing)} classes of the split in all")
        return ClassParts.of(images.of_classes(sorted(places)), novel=NOVEL, validation=VALIDATION)
