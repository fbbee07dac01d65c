"""Cub: two hundred species of birds, parted 100 / 50 / 50."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .archive import find
from .class_parts import ClassData, ClassParts
from .image_set import ImageSet

CLASSES = 200


@dataclass(frozen=True)
class Cub(ClassData):
    """CUB-200-2011 (Wah et al., 2011) with the split of Chen et al. (A Closer Look at Few-shot Classification, ICLR
    2019): of the classes in order of their numbers, counted from 0, the even ones are the base; of the others every
    second is for validation, and the rest is novel. Images are cropped about their centre, not to the bird.

    Args:
        root: the folder with ``CUB_200_2011`` (as a folder or a zip file), which has
            ``images/001.Black_footed_Albatross/*.jpg`` and so on; by default ``$MEMREPLAY_DATA``.
        size: side in pixels to resize to.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it has not 200 classes.
    """

    root: str | None = None
    size: int = 84

    def load(self) -> ClassParts:
        archive = find("CUB_200_2011", self.root, ("cub", "CUB"))
        names = [name for name in archive.files((".jpg",)) if name.startswith("images/") and name.count("/") == 2]
        classes = sorted({name.split("/")[1] for name in names})
        if len(classes) != CLASSES:
            raise ValueError(f"{archive} has {len(classes)} folders of images; expected {CLASSES}, one per class")
        number = {name: i for i, name in enumerate(classes)}
        labels = torch.tensor([number[name.split("/")[1]] for name in names])
        images = ImageSet(archive.pixels(names, "RGB", self.size), labels, tuple(classes), "train")
        return ClassParts.of(images, novel=classes[3::4], validation=classes[1::4])
