"""Pictures: detections drawn on images, and the regions that a memory holds of each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .data import DetectionSet
from .detections import Detections
from .memory import ROIMemory


def drawn(image: Tensor, found: Detections, names: Mapping[int, str], scale: int = 1) -> Any:
    """An image (3, H, W) with its detections drawn on it, each with its class and score; as a picture of Pillow's,
    ``scale`` times as large.
    """
    from PIL import Image, ImageDraw

    pixels = image.permute(1, 2, 0).repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    picture = Image.fromarray(pixels.numpy())
    brush = ImageDraw.Draw(picture)
    for box, score, label in zip(*columns(found), strict=True):
        box = [scale * value for value in box]
        colour = _COLOURS[label % len(_COLOURS)]
        brush.rectangle(box, outline=colour, width=2)
        text = f"{names[label]} {100 * score:.0f}"
        place = (box[0], max(0, box[1] - 11))
        brush.rectangle(brush.textbbox(place, text), fill=colour)
        brush.text(place, text, fill="black")
    return picture


# colours that can be told apart by everyone (Okabe and Ito)
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def columns(found: Detections) -> tuple[list[list[float]], list[float], list[int]]:
    """Boxes, scores and labels."""
    return found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()


def held(memory: ROIMemory, data: DetectionSet, names: Mapping[int, str], *, n: int = 10, size: int = 48) -> Any:
    """What a memory holds of each class: a line per class with the number of its regions, and the places on the images
    that ``n`` of them were pooled from; as a picture of Pillow's.

    Args:
        data: what the memory was filled from, images that the detector did not resize.
        names: of the classes by number.
        size: of each region in the picture.

    Raises:
        TypeError: the memory holds statistics, no rows.
    """
    from PIL import Image, ImageDraw

    rows = memory.rows()
    sheet = Image.new("RGB", (120 + size * n, size * len(names)), "white")
    brush = ImageDraw.Draw(sheet)
    for line, (label, name) in enumerate(names.items()):
        own = (rows["label"] == label).nonzero()[:, 0].tolist()
        brush.text((4, size * line + size // 3), f"{name}: {len(own)} regions", fill="black")
        for place, row in enumerate(own[:n]):
            left, top, right, bottom = (round(value) for value in rows["proposal"][row].tolist())
            pixels = data.image(int(rows["source"][row]))[:, top : max(bottom, top + 1), left : max(right, left + 1)]
            region = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).resize((size - 2, size - 2))
            sheet.paste(region, (120 + size * place, size * line))
    return sheet
