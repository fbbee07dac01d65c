"""Picture: pixels as something that a page can show."""

from __future__ import annotations

import base64
from io import BytesIO

import torch
from torch import Tensor


def is_picture(rows: Tensor) -> bool:
    """Whether the rows of a column look like images, (N, C, H, W) with one or three channels.

    >>> is_picture(torch.zeros(2, 3, 8, 8)), is_picture(torch.zeros(2, 48, 5, 5)), is_picture(torch.zeros(2, 3))
    (True, False, False)
    """
    if rows.is_nested or rows.dim() != 4 or rows.shape[1] not in (1, 3) or min(rows.shape[2:]) < 4:
        return False
    return rows.dtype == torch.uint8 or rows.is_floating_point()


def data_uri(pixels: Tensor, side: int | None = None) -> str:
    """An image (C, H, W) of one or three channels as the URI of a PNG, which needs no other file.

    Args:
        pixels: uint8; or floats, which are taken for shares of full brightness, and where some are outside of [0, 1]
            stretched between the darkest and the brightest.
        side: the longer side in pixels, at most; None: as it is.

    >>> data_uri(torch.zeros(1, 8, 8, dtype=torch.uint8)).partition(",")[0]
    'data:image/png;base64'
    """
    from PIL import Image

    if pixels.dtype != torch.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            pixels = (pixels - low) / max(high - low, 1e-12)
        pixels = (255 * pixels.float()).round().byte()
    values = pixels.cpu().permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    if side is not None:
        image.thumbnail((side, side))
    written = BytesIO()
    image.save(written, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
