"""Transform: recalled rows, changed a little before they are seen again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
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
        _check_padding(self.padding)

    def __call__(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> Batch:
        images = _images(rows, self.column)
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
class RandomElastic:
    """Bends every image by a smooth random field of its own: each pixel comes from somewhere near, neighbouring pixels
    from neighbouring places (Simard, Steinkraus & Platt, "Best Practices for Convolutional Neural Networks Applied to
    Visual Document Analysis", ICDAR 2003).

    The field is noise smoothed by a Gaussian. The paper smooths uniform noise and multiplies it by a number; here it is
    normal noise, brought to a given standard deviation at every pixel, also at the edges. The paper's 4 and 34 pixels
    at 29 x 29 are about ``shift=0.05, smooth=0.14``.

    Args:
        shift: standard deviation of the displacement, as a fraction of the width and of the height.
        smooth: that of the Gaussian, likewise. Images turn into noise where it is much smaller than ``shift``.
        padding: what lies beyond the edge.
        column: images (B, C, H, W), of floats or of integers such as uint8.

    >>> rows = {"input": torch.rand(2, 1, 8, 8)}
    >>> RandomElastic()(rows, torch.Generator())["input"].shape
    torch.Size([2, 1, 8, 8])
    """

    shift: float = 0.04
    smooth: float = 0.14
    padding: Literal["zeros", "border", "reflection"] = "zeros"
    column: str = "input"

    def __post_init__(self) -> None:
        if not self.shift >= 0:
            raise ValueError(f"shift is {self.shift}; expected a number of at least 0")
        if not self.smooth > 0:
            raise ValueError(f"smooth is {self.smooth}; expected a number above 0")
        _check_padding(self.padding)

    def __call__(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> Batch:
        images = _images(rows, self.column)
        n, (height, width) = len(images), images.shape[2:]
        noise = torch.randn(n, 2, height, width, generator=generator, device=generator.device).to(images.device)
        field = _gaussian(height, self.smooth).to(noise) @ noise @ _gaussian(width, self.smooth).to(noise).T
        still = torch.eye(2, 3, device=images.device, dtype=_precision(images)).expand(n, 2, 3)
        grid = F.affine_grid(still, list(images.shape), align_corners=False)
        return {**rows, self.column: _sample(images, grid + 2 * self.shift * field.permute(0, 2, 3, 1), self.padding)}


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
    angle, shift, scale = (part.to(images.device, _precision(images)) for part in (angle, shift, scale))
    cos, sin = angle.cos() / scale, angle.sin() / scale
    # grid_sample asks where each output pixel comes from, in coordinates that run from -1 to 1 along either side
    inverse = torch.stack([cos, -sin * height / width, sin * width / height, cos], 1).view(-1, 2, 2)
    offset = -inverse @ (2 * shift).unsqueeze(2)
    grid = F.affine_grid(torch.cat([inverse, offset], 2), list(images.shape), align_corners=False)
    return _sample(images, grid, padding)


def _sample(images: Tensor, grid: Tensor, padding: str) -> Tensor:
    """Images (B, C, H, W) as found at the places ``grid`` (B, H, W, 2), bilinearly, in their own dtype."""
    values = images.to(_precision(images))
    moved = F.grid_sample(values, grid.to(values.dtype), padding_mode=padding, align_corners=False)
    return moved.to(images.dtype) if images.is_floating_point() else moved.round().to(images.dtype)


def _precision(images: Tensor) -> torch.dtype:
    return torch.float64 if images.dtype is torch.float64 else torch.float32


@cache
def _gaussian(size: int, deviation: float) -> Tensor:
    """Smooths ``size`` pixels by a Gaussian of so much of their number: (size, size); independent numbers of variance 1
    become others of variance 1."""
    at = torch.arange(size, dtype=torch.float64) / size
    weights = torch.exp(-0.5 * ((at[:, None] - at) / deviation) ** 2)
    return weights / weights.square().sum(1, keepdim=True).sqrt()


def _images(rows: Mapping[str, Tensor], name: str) -> Tensor:
    images = _column(rows, name)
    if images.is_nested or images.dim() != 4:
        raise ValueError(f"column {name!r} has {images.dim()} dimensions; expected images (B, C, H, W)")
    return images


def _check_padding(padding: str) -> None:
    if padding not in ("zeros", "border", "reflection"):
        raise ValueError(f"padding is {padding!r}; expected 'zeros', 'border' or 'reflection'")


def _column(rows: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in rows:
        raise KeyError(f"column {name!r} is missing; the rows have {sorted(rows)}")
    return rows[name]
