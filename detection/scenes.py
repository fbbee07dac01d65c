"""Scenes: little images composed of scikit-learn's real handwritten digits, for demonstrations and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.protocols.seeding import generator_at
from .data import DetectionData, DetectionSet, ImagesInMemory, Picture


@dataclass(frozen=True)
class Scenes(DetectionData):
    """Scenes of handwritten digits, see `digit_scenes`.

    Args:
        n: how many.
        digits: which digits are on them.
        split: whose handwriting it is, ``train`` or ``test``.
        size: height and width.
        seed: of what is where.
    """

    n: int = 200
    digits: tuple[int, ...] = tuple(range(10))
    split: str = "train"
    size: int = 96
    seed: int = 0

    def load(self) -> DetectionSet:
        """Makes them."""
        return digit_scenes(self.n, self.digits, split=self.split, size=self.size, seed=self.seed)


def digit_scenes(
    n: int,
    digits: Sequence[int] = range(10),
    *,
    split: str = "train",
    size: int = 96,
    objects: int = 3,
    seed: int = 0,
) -> DetectionSet:
    """Scenes of one to ``objects`` digits of random size on a background of noise.

    Args:
        n: how many.
        digits: which digits are on them, every one as often as the others.
        split: ``train``, or ``test``, which are other handwritten digits.
        size: height and width of a scene.
        seed: of what is where.

    Raises:
        ValueError: an unknown split.

    >>> scenes = digit_scenes(4, [3, 5])
    >>> scenes.classes, scenes.image(0).shape
    (('3', '5'), torch.Size([3, 96, 96]))
    """
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected train or test")
    images, labels = load_digits(return_X_y=True)
    written = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 16
    # every third handwritten digit is for tests
    own = (torch.arange(len(written)) % 3 == 2) == (split == "test")
    pools = {digit: written[own & (torch.from_numpy(labels) == digit)] for digit in digits}
    made: dict[str, Tensor] = {}
    pictures = []
    for number in range(n):
        generator = generator_at(seed, "scene", split, number)
        canvas = 0.25 * torch.rand(size, size, generator=generator)
        boxes: list[list[int]] = []
        chosen: list[int] = []
        for _ in range(1 + _integer(objects, generator)):
            label = _integer(len(digits), generator)
            box = _place(boxes, size, generator)
            if box is None:
                continue
            pool = pools[digits[label]]
            digit = _upright(pool[_integer(len(pool), generator)], box)
            left, top, right, bottom = box
            canvas[top:bottom, left:right] = torch.maximum(canvas[top:bottom, left:right], digit)
            boxes.append(box)
            chosen.append(label)
        name = f"{split}-{seed}-{number}.png"
        made[name] = (255 * canvas).to(torch.uint8).expand(3, -1, -1).clone()
        pictures.append(
            Picture(
                name,
                (size, size),
                torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                torch.tensor(chosen, dtype=torch.int64),
                torch.zeros(len(chosen), dtype=torch.bool),
            )
        )
    return DetectionSet([str(digit) for digit in digits], pictures, ImagesInMemory(made))


def _place(taken: Sequence[Sequence[int]], size: int, generator: torch.Generator) -> list[int] | None:
    """Room for one more object; None where a few tries find none."""
    for _ in range(10):
        side = size // 6 + _integer(size // 6, generator)
        left, top = (_integer(size - side, generator) for _ in range(2))
        box = [left, top, left + side, top + side]
        if all(box[0] >= b[2] or b[0] >= box[2] or box[1] >= b[3] or b[1] >= box[3] for b in taken):
            return box
    return None


def _upright(digit: Tensor, box: Sequence[int]) -> Tensor:
    side = box[2] - box[0]
    return F.interpolate(digit[None], (side, side), mode="bilinear", align_corners=False)[0, 0]


def _integer(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=generator))
