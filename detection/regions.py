"""Regions of a whole data set, extracted once by a detector that no longer changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..core.batch import Batch, concat, take
from ..core.protocols.seeding import generator_at
from .data import DetectionSet, Examples, as_lists
from .detector import Detector
from .memory import BACKGROUND, ROIMemory


def extract(detector: Detector, data: DetectionSet, *, passes: int = 1, batch_size: int = 4, seed: int = 0) -> Batch:
    """Rows of the regions of all images, see `stream`; their features are in half precision, as a memory keeps them."""
    return concat(list(stream(detector, data, passes=passes, batch_size=batch_size, seed=seed)))


def stream(
    detector: Detector, data: DetectionSet, *, passes: int = 1, batch_size: int = 4, seed: int = 0
) -> Iterator[Batch]:
    """Rows for a memory, or to learn from, of the regions that the detector samples on every image; some images at a
    time. The global random state is left alone.

    Args:
        passes: how often to go through the images; every second time they are flipped. Other regions are sampled each
            time.
        batch_size: images at a time.
        seed: of the sampling.
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
            yield {**{name: values.cpu() for name, values in rows.items()}, "feature": rows["feature"].cpu().half()}


def fill(memory: ROIMemory, rows: Batch | Iterable[Batch]) -> ROIMemory:
    """Offers rows to a memory, or the rows of a `stream`; returns it."""
    for part in [rows] if isinstance(rows, dict) else rows:
        memory.add(part)
    return memory


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
