"""ImageAdapter: an image classifier that is saved, taught new classes and made to forget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import adapter as core
from ..core.batch import Batch, jagged, texts
from ..core.heads import LinearHead
from ..core.memory_readout import MemoryReadout
from ..core.reporting.cases import Case, spread
from .backbones import Classifier
from .data import ImageSet
from .data.decoding import read_image
from .encoder import ImageEncoder


@dataclass(frozen=True)
class Recipe(core.Recipe):
    """How an adapter learns; saved with it, so that classes added later are learned in the same way.

    The defaults were chosen on ImageNet features of 60 classes, of which 40 came first with 20 or 50 images each and 20
    later with 1 or 5: beside a head that counts all images alike, the balanced one doubles the harmonic mean of old and
    new accuracy at five images and costs less than a point of the old; the readout lifts it by another 6 to 12 points,
    at a single image from 7 to 30 %, and costs 2 to 4.

    Args:
        head: solves for the head.
        readout: what the memory adds to the head.
        per_class: rows of each class that the memory holds at most.
        balanced: whether every class has the same say in the head, however many rows it has.
        seed: of the memory and of cross-validation.
        thumbnail: side in pixels of the small images that the memory holds of what it learned from; 0: none.
    """

    readout: MemoryReadout = field(default_factory=lambda: MemoryReadout("calibrated", share=0.5, temperature=0.02))
    balanced: bool = True
    thumbnail: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.thumbnail < 0:
            raise ValueError(f"thumbnail is {self.thumbnail}; expected a number of pixels, or 0")


@dataclass(frozen=True)
class Memory:
    """A row of the memory that supports a prediction.

    Attributes:
        file: where the image was when it was learned.
        label: its class.
        similarity: to the image in question, a cosine.
    """

    file: str
    label: str
    similarity: float


@dataclass(frozen=True)
class ImagePrediction:
    """What an adapter says about an image.

    Attributes:
        file: the image.
        label: its class; None where it resembles nothing in the memory enough to belong to one, or cannot be read.
        probability: of the likeliest class.
        memories: what was learned of the most similar images, the most similar first.
        error: why it cannot be read.
    """

    file: str
    label: str | None
    probability: float
    memories: tuple[Memory, ...]
    error: str | None = None


class ImageAdapter(core.Adapter[ImageEncoder]):
    """A classifier of images on an encoder, with a memory of what it learned from; see `core.adapter.Adapter`.

    Args:
        encoder: from images to vectors.
        recipe: how it learns.

    In three lines, once it is saved: ``adapter = ImageAdapter.load(folder)``,
    ``adapter.learn(image_folder("new-classes", "train", size=adapter.encoder.size, test_fraction=0))``,
    ``adapter.predict(["what-is-it.jpg"])``.
    """

    kind: ClassVar[str] = "memreplay image adapter"
    shown: ClassVar[str] = "file"
    recipe_type: ClassVar[type[core.Recipe]] = Recipe
    recipe: Recipe

    def learn(self, data: ImageSet, head: LinearHead | None = None) -> None:
        """Learns from the first images, or from more. Old images are not needed: nothing is read but the memory.

        Args:
            data: images with labels. New labels become new classes, others teach more of the classes there are.
            head: one that was trained with the encoder for the classes of ``data``, at first; None: it is solved for.

        Raises:
            ValueError: no images, or images of another size. The adapter is unchanged.
        """
        if not len(data):
            raise ValueError("data has no images; expected at least one")
        used = set(data.names)
        added = [name for name in self.unknown(data.classes) if name in used]
        files = data.sources or tuple(f"{data.split} image {number}" for number in range(len(data)))
        rows: Batch = {"feature": self.encoder.embed(data.images), "file": jagged(files)}
        if self.recipe.thumbnail:
            rows["thumbnail"] = thumbnails(data.images, self.recipe.thumbnail)
        self.learn_rows(rows, data.names, added, head=head)

    def predict(self, files: Sequence[str | Path], memories: int = 3) -> list[ImagePrediction]:
        """Class, probability and supporting memories of image files; of one that cannot be read, why.

        Args:
            files: any number.
            memories: how many to tell of each.

        Raises:
            ValueError: nothing was learned yet.
        """
        images = [read_image(Path(file), self.encoder.channels, self.encoder.size) for file in files]
        readable = [image for image in images if isinstance(image, Tensor)]
        feature = self.encoder.embed(torch.stack(readable)) if readable else None
        answers = iter([] if feature is None else self.answers(feature, memories))
        found = []
        for file, image in zip(files, images, strict=True):
            if not isinstance(image, Tensor):
                found.append(ImagePrediction(str(file), None, 0.0, (), f"no image that can be read: {image}"))
                continue
            answer = next(answers)
            near = tuple(Memory(row.shown, row.label, row.similarity) for row in answer.supports)
            found.append(ImagePrediction(str(file), answer.label, answer.probability, near))
        return found

    def current(self, encoder: ImageEncoder) -> tuple[Tensor, Tensor]:
        """See `core.adapter.Adapter.current`; the memory knows the files of its images, some of which may be gone."""
        read = [read_image(Path(file), encoder.channels, encoder.size) for file in texts(self.memory.rows()["file"])]
        at = [place for place, image in enumerate(read) if isinstance(image, Tensor)]
        images = [image for image in read if isinstance(image, Tensor)]
        return torch.tensor(at, dtype=torch.int64), encoder.embed(torch.stack(images)) if at else torch.empty(0)

    def explained(self, data: ImageSet, n: int = 24) -> list[Case]:
        """Predictions on images of ``data`` that tell most, with their evidence, see `core.adapter.Adapter.cases`.

        Args:
            data: images with labels; those of classes that the adapter does not have are left out, and of many images
                256 are looked at, evenly spread.
            n: how many predictions, at most.
        """
        known = set(self.classes)
        rows = [row for row, name in enumerate(data.names) if name in known]
        part = data.rows(torch.tensor([rows[i] for i in spread(len(rows), 256)], dtype=torch.int64))
        asked = part.sources or [f"{part.split} image {number}" for number in range(len(part))]
        return self.cases(self.encoder.embed(part.images), part.names, asked, part.images, n) if rows else []

    @staticmethod
    def load(
        folder: str | Path, *, network: type[Classifier] | None = None, device: torch.device | str | None = None
    ) -> ImageAdapter:
        """Reads an adapter written by `save`, with the weights of its network.

        Args:
            folder: where it was saved.
            network: the class of its network, where that is one of your own.
            device: by default the accelerator, where there is one.

        Raises:
            FileNotFoundError: there is no save.
            ValueError: the save is damaged or something else.
        """

        def encoder_of(described: Mapping[str, Any], weights: dict[str, Tensor]) -> ImageEncoder:
            return ImageEncoder.of_description(described, weights, network, device)

        return ImageAdapter.read(folder, encoder_of)


def thumbnails(images: Tensor, side: int) -> Tensor:
    """Small copies of images (N, C, H, W), uint8 (N, C, side, side)."""
    parts = []
    for part in images.split(256):
        values = part.float() if part.dtype == torch.uint8 else part * 255
        small = F.interpolate(values, (side, side), mode="bilinear", antialias=True, align_corners=False)
        parts.append(small.round().clamp(0, 255).byte())
    return torch.cat(parts)
