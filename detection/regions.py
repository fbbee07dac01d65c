"""Regions of a whole data set, extracted once by a detector that no longer changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.batch import Batch, concat, take
from ..core.protocols.seeding import generator_at
from .data import DetectionSet, Examples, as_lists
from .detector import Detector, Images
from .memory import BACKGROUND, ROIMemory


def extract(
    detector: Detector, data: DetectionSet, *, passes: int = 1, batch_size: int = 4, seed: int = 0, thumbnail: int = 0
) -> Batch:
    """Rows of the regions of all images, see `stream`; their features are in half precision, as a memory keeps them."""
    options = {"passes": passes, "batch_size": batch_size, "seed": seed, "thumbnail": thumbnail}
    return concat(list(stream(detector, data, **options)))


def stream(
    detector: Detector, data: DetectionSet, *, passes: int = 1, batch_size: int = 4, seed: int = 0, thumbnail: int = 0
) -> Iterator[Batch]:
    """Rows for a memory, or to learn from, of the regions that the detector samples on every image; some images at a
    time. The global random state is left alone.

    Args:
        passes: how often to go through the images; every second time they are flipped. Other regions are sampled each
            time.
        batch_size: images at a time.
        seed: of the sampling.
        thumbnail: side in pixels of a small picture of each region, for people; 0: none.
    """
    device = next(detector.parameters()).device
    devices = [device] if device.type == "cuda" else []
    for turn in range(passes):
        examples = Examples(data, flip=float(turn % 2))
        for number, start in enumerate(range(0, len(data), batch_size)):
            batch = as_lists([examples[i] for i in range(start, min(start + batch_size, len(data)))])
            placed = {name: [values.to(device) for values in column] for name, column in batch.items()}
            with torch.random.fork_rng(devices):
                torch.manual_seed(generator_at(seed, "regions", turn, number).initial_seed())
                rows = detector.regions(placed)
            rows = {**{name: values.cpu() for name, values in rows.items()}, "feature": rows["feature"].cpu().half()}
            yield rows if not thumbnail else {**rows, "thumbnail": thumbnails(rows, batch, thumbnail)}


def thumbnails(rows: Batch, batch: Images, side: int) -> Tensor:
    """Small pictures of regions, uint8 (B, 3, side, side), cut from the images of ``batch`` that they are of.

    Boxes in rows are in pixels of the image as the detector resized it. By how much tells a target, which is a box of
    the image times a number. Where an image has no objects nothing tells it, and its regions have black pictures.
    """
    found = torch.zeros(len(rows["label"]), 3, side, side, dtype=torch.uint8)
    for image, boxes, number in zip(batch["image"], batch["boxes"], batch["id"], strict=True):
        own = (rows["source"] == number).nonzero()[:, 0]
        targets = rows["target"][own][rows["label"][own] >= 0]
        if not len(targets):
            continue
        # of the boxes, the one of which the target is a multiple points the same way
        box = boxes[(F.normalize(targets[:1], dim=1) @ F.normalize(boxes, dim=1).T).argmax()]
        times = float(targets[0].norm() / box.norm())
        for row in own.tolist():
            found[row] = crop(image, rows["proposal"][row] / times, side)
    return found


def crop(image: Tensor, box: Tensor, side: int) -> Tensor:
    """A part of an image (3, H, W), uint8 or floats in [0, 1], as a small picture, uint8 (3, side, side).

    Args:
        box: x1, y1, x2, y2 in pixels; at least a pixel is shown.
    """
    high, wide = image.shape[1:]
    left, top, right, bottom = (round(value) for value in box.tolist())
    left, top = min(max(left, 0), wide - 1), min(max(top, 0), high - 1)
    part = image[:, top : max(bottom, top + 1), left : max(right, left + 1)]
    values = part.float() if part.dtype == torch.uint8 else part * 255
    small = F.interpolate(values[None], (side, side), mode="bilinear", antialias=True, align_corners=False)[0]
    return small.round().clamp(0, 255).byte()


def fill(memory: ROIMemory, rows: Batch | Iterable[Batch]) -> ROIMemory:
    """Offers rows to a memory, or the rows of a `stream`; returns it."""
    for part in [rows] if isinstance(rows, dict) else rows:
        memory.add(part)
    return memory


def refilled(
    memory: ROIMemory, empty: ROIMemory, detector: Detector, data: DetectionSet, *, seed: int = 0
) -> ROIMemory:
    """Extracts anew: fills ``empty``, and returns it, with regions that ``detector`` samples on the images that the
    rows of ``memory`` came from. Of other images nothing is read. For rows that went stale, such as those written while
    the backbone still learned.

    Args:
        data: what ``memory`` was filled from.

    Raises:
        TypeError: ``memory`` holds statistics, no rows.
    """
    numbers = memory.rows()["source"].unique()
    few = DetectionSet(data.classes, [data.pictures[number] for number in numbers.tolist()], data.files)
    for rows in stream(detector, few, seed=seed):
        empty.add({**rows, "source": numbers[rows["source"]]})
    return empty


def unless_known(rows: Batch, classes: int, threshold: float = 0.5) -> Batch:
    """Rows without the background that the detector, before it learns them, takes for one of its first ``classes``
    classes with a probability above ``threshold``.

    Images with shots of new classes show old ones too, which nobody has marked. To learn that those are background is
    to forget them.
    """
    return take(rows, (~(known(rows["logits"], classes, threshold) & (rows["label"] == BACKGROUND))).nonzero()[:, 0])


def known(logits: Tensor, classes: int, threshold: float) -> Tensor:
    """Which regions (B,) belong to one of the first classes, according to logits with the background first."""
    return logits.softmax(1)[:, 1 : classes + 1].amax(1) > threshold
