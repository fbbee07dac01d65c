"""Transform: recalled rows, changed a little before they are seen again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch


class Transform(Protocol):
    """Rows to rows, one by one, with randomness from the generator alone. The rows given are not changed."""

    def __call__(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> Batch:
        """All columns, those that change replaced."""
        ...


@dataclass(frozen=True)
class RandomAffine:
    """Rotates, shifts and scales every image by an amount of its own, bilinearly, as torchvision's transform of that
    name does with one amount for the whole batch.

    Args:
        degrees: largest angle, either way.
        translate: largest shift, either way, as a fraction of the width and of the height.
        scale: smallest and largest factor.
        padding: what lies beyond the edge.
        column: images (B, C, H, W), of floats or of integers such as uint8.

    >>> rows = {"input": torch.rand(2, 1, 8, 8)}
    >>> RandomAffine()(rows, torch.Generator())["input"].shape
    torch.Size([2, 1, 8, 8])
    """

    degrees: float = 10.0
    translate: float = 0.1
    scale: tuple[float, float] = (0.9, 1.1)
    padding: Literal["zeros", "border", "reflection"] = "zeros"
    column: str = "input"

    def __post_init__(self) -> None:
        for name in ("degrees", "translate"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number of at least 0")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}; expected (smallest, largest), both above 0")
        if self.padding not in ("zeros", "border", "reflection"):
            raise ValueError(f"padding is {self.padding!r}; expected 'zeros', 'border' or 'reflection'")

    def __call__(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> Batch:
        images = _column(rows, self.column)
        if images.is_nested or images.dim() != 4:
            raise ValueError(f"column {self.column!r} has {images.dim()} dimensions; expected images (B, C, H, W)")
        angle, right, down, size = torch.rand(4, len(images), generator=generator, device=generator.device)
        low, high = self.scale
        moved = affine(
            images,
            angle=(2 * angle - 1) * math.radians(self.degrees),
            shift=(2 * torch.stack([right, down], 1) - 1) * self.translate,
            scale=low + (high - low) * size,
            padding=self.padding,
        )
        return {**rows, self.column: moved}


@dataclass(frozen=True)
class FeatureNoise:
    """Adds Gaussian noise to a column of floats.

    Args:
        std: standard deviation of the noise.
        column: the column, of any shape.

    >>> rows = FeatureNoise(0.1)({"feature": torch.zeros(1000)}, torch.Generator().manual_seed(0))
    >>> round(rows["feature"].std().item(), 1)
    0.1
    """

    std: float
    column: str = "feature"

    def __post_init__(self) -> None:
        if not self.std >= 0:
            raise ValueError(f"std is {self.std}; expected a number of at least 0")

    def __call__(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> Batch:
        values = _column(rows, self.column)
        if not values.is_floating_point():
            raise ValueError(f"column {self.column!r} is {values.dtype}; expected a floating point dtype")
        noise = torch.randn(values.shape, generator=generator, device=generator.device, dtype=values.dtype)
        return {**rows, self.column: values + self.std * noise.to(values.device)}


def affine(images: Tensor, *, angle: Tensor, shift: Tensor, scale: Tensor, padding: str = "zeros") -> Tensor:
    """Images (B, C, H, W) scaled by ``scale`` (B,) and turned anticlockwise by ``angle`` (B,) radians about their
    centre, then moved right and down by ``shift`` (B, 2), in fractions of the width and the height.

    >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> still, quarter = torch.zeros(1, 2), torch.tensor([math.pi / 2])
    >>> affine(image, angle=quarter, shift=still, scale=torch.ones(1)).round().tolist()
    [[[[2.0, 4.0], [1.0, 3.0]]]]
    """
    height, width = images.shape[2:]
    values = images if images.dtype in (torch.float32, torch.float64) else images.float()
    angle, shift, scale = (part.to(values) for part in (angle, shift, scale))
    cos, sin = angle.cos() / scale, angle.sin() / scale
    # grid_sample asks where each output pixel comes from, in coordinates that run from -1 to 1 along either side
    inverse = torch.stack([cos, -sin * height / width, sin * width / height, cos], 1).view(-1, 2, 2)
    offset = -inverse @ (2 * shift).unsqueeze(2)
    grid = F.affine_grid(torch.cat([inverse, offset], 2), list(values.shape), align_corners=False)
    moved = F.grid_sample(values, grid, padding_mode=padding, align_corners=False)
    return moved.to(images.dtype) if images.is_floating_point() else moved.round().to(images.dtype)


def _column(rows: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in rows:
        raise KeyError(f"column {name!r} is missing; the rows have {sorted(rows)}")
    return rows[name]
