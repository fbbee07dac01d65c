"""Decoding: from image files to pixels of one size."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Endings of files that are taken for images."""


def decode_all(
    files: Sequence[Path], size: int, on_corrupt: str, cache: str | Path | None, channels: int = 3
) -> tuple[Tensor, Tensor]:
    """The pixels (n, channels, size, size) of the files that can be read, and the positions of those."""
    from tqdm import tqdm

    if cache is None:
        images = torch.empty(len(files), channels, size, size, dtype=torch.uint8)
    else:
        room = len(files) * channels * size * size
        images = torch.from_file(str(cache), shared=True, size=room, dtype=torch.uint8)
        images = images.view(len(files), channels, size, size)
    readable: list[int] = []
    with ThreadPoolExecutor() as threads:
        decoded = threads.map(lambda file: read_image(file, channels, size), files)
        for position, image in enumerate(tqdm(decoded, "images", len(files), disable=None, leave=False)):
            if isinstance(image, Exception):
                message = f"{files[position]} is no image that can be read: {image}"
                if on_corrupt == "error":
                    threads.shutdown(cancel_futures=True)
                    raise ValueError(f"{message}; on_corrupt 'skip' leaves such files out") from image
                warnings.warn(f"left out: {message}", stacklevel=3)
            else:
                images[len(readable)] = image
                readable.append(position)
    return images[: len(readable)], torch.tensor(readable, dtype=torch.int64)


def read_image(file: Path, channels: int, size: int) -> Tensor | Exception:
    """uint8 (channels, size, size) of an image file, upright; or what is wrong with it."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            return pixels(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB", size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return error


def pixels(image: Image, mode: str, size: int | None) -> Tensor:
    """uint8 (C, H, W) of one image."""
    from PIL import Image, ImageOps

    if image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 256).convert("L")
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, -1).permute(2, 0, 1)
