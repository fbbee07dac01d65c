"""ClassParts: images parted by class, some classes to learn from, some to choose by and some to be judged on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...core.protocols.seeding import generator_at
from .image_set import ImageSet
from .source import Data


@dataclass(frozen=True, eq=False)
class ClassParts:
    """Three sets of images without a class in common.

    Attributes:
        base: classes to learn from.
        validation: classes to choose settings by; there may be none.
        novel: classes to be judged on.
    """

    base: ImageSet
    validation: ImageSet
    novel: ImageSet

    @staticmethod
    def of(images: ImageSet, *, novel: Sequence[str], validation: Sequence[str] = ()) -> ClassParts:
        """The images parted by the names of the classes; those not named are the base.

        Raises:
            ValueError: a class in two parts, or one of which there are no images.

        >>> images = ImageSet(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 2]), ("a", "b", "c"), "train")
        >>> parts = ClassParts.of(images, novel=["b"])
        >>> parts.base.classes, parts.novel.labels.tolist()
        (('a', 'c'), [0])
        """
        if both := sorted(set(novel) & set(validation)):
            raise ValueError(f"novel has {both}, which validation has too; expected every class in one part")
        held_out = {*novel, *validation}
        base = [name for name in images.classes if name not in held_out]
        return ClassParts(images.of_classes(base), images.of_classes(validation), images.of_classes(novel))


class ClassData(ABC):
    """Where images parted by class come from, as a choice that can be written down."""

    @abstractmethod
    def load(self) -> ClassParts:
        """The images of all three parts."""


@dataclass(frozen=True)
class ByClass(ClassData):
    """Any data parted by class, by chance; the train and the test images of a class stay together.

    Args:
        data: where the images come from.
        novel: share of the classes to be judged on; 1 where nothing has to be learned from a base.
        validation: share of the classes to choose settings by.
        seed: of the choice of classes.
    """

    data: Data
    novel: float = 0.25
    validation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("novel", 1e-9), ("validation", 0)):
            if not least <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share of the classes, at most 1")
        if self.novel + self.validation > 1:
            raise ValueError(f"novel is {self.novel} and validation is {self.validation}; expected at most 1 together")

    def load(self) -> ClassParts:
        train, test = self.data.load("train"), self.data.load("test")
        if test.classes != train.classes:
            raise ValueError(f"data has the classes {train.classes} to train on and {test.classes} to test on")
        images = ImageSet(
            torch.cat([train.images, test.images]), torch.cat([train.labels, test.labels]), train.classes, "train"
        )
        order = torch.randperm(len(images.classes), generator=generator_at(self.seed, "classes")).tolist()
        names = [images.classes[i] for i in order]
        novel, chosen = (max(1, round(self.novel * len(names))), round(self.validation * len(names)))
        return ClassParts.of(images, novel=sorted(names[:novel]), validation=sorted(names[novel : novel + chosen]))
