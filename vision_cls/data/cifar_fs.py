"""CifarFS: the classes of CIFAR-100, parted 64 / 16 / 20."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .class_parts import ClassData, ClassParts
from .image_set import ImageSet
from .torchvision_data import torchvision_dataset

VALIDATION = (
    "beaver", "otter", "flatfish", "shark", "lamp", "television", "beetle", "butterfly", "sea", "camel",
    "cattle", "crab", "crocodile", "maple_tree", "motorcycle", "tractor",
)  # fmt: skip
NOVEL = (
    "whale", "poppy", "rose", "sweet_pepper", "telephone", "bed", "table", "wardrobe", "leopard", "plain",
    "chimpanzee", "fox", "snail", "worm", "baby", "man", "woman", "bicycle", "pickup_truck", "rocket",
)  # fmt: skip


@dataclass(frozen=True)
class CifarFS(ClassData):
    """CIFAR-FS (Bertinetto et al., Meta-learning with differentiable closed-form solvers, ICLR 2019): CIFAR-100 parted
    by class into 64 base, 16 validation and 20 novel classes, 600 images of 32x32 each.

    Args:
        root: the folder with torchvision's ``cifar-100-python``; by default ``~/.cache/memreplay``.
        download: fetch it when it is not there.
        size: side in pixels to resize to.
    """

    root: str | None = None
    download: bool = True
    size: int = 32

    def load(self) -> ClassParts:
        parts = [
            torchvision_dataset("CIFAR100", split, root=self.root, download=self.download, size=self.size)
            for split in ("train", "test")
        ]
        images, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels"))
        return ClassParts.of(ImageSet(images, labels, parts[0].classes, "train"), novel=NOVEL, validation=VALIDATION)
