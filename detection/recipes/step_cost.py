"""Seconds per step of fine-tuning: from images against from cached regions, with replay, on both back-ends.

Backbone and proposals are frozen. An image step passes images through them and learns from the regions sampled there;
a cached step learns from regions that were extracted once. Both recall as many regions from the memory. Weights and
images are random: what a step costs does not depend on them. Three sizes: that of the demo, that of
``detection/voc-subset``, and that of the publications (ResNet-101, 800 pixels, two images as on one of eight GPUs).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from ...core.batch import take
from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from .. import demo
from ..data import DetectionSet, ImagesInMemory, Picture
from ..faster_rcnn import FasterRCNN
from ..regions import extract, fill
from ..tuning import FineTuning
from . import voc, voc_subset


@dataclass(frozen=True)
class Size:
    """What is timed.

    Attributes:
        detector: the architecture.
        tuning: images, regions and recalled regions per step.
        image: height and width.
        steps: that are timed, of those from images; ten times as many of the others.
    """

    detector: FasterRCNN
    tuning: FineTuning
    image: tuple[int, int]
    steps: int = 10


SIZES = {
    "demo": Size(demo.DETECTOR, demo.TUNING, (64, 64)),
    "voc-subset": Size(voc_subset.PLAN.detector, voc_subset.PLAN.tuning, (240, 320)),
    "full size": Size(voc.PLAN.detector, replace(voc.PLAN.tuning, images=2), (600, 800), steps=1),
}
BACKENDS = ("torchvision", "detectron2")


def reproduce(
    *, seeds: int | None, data: Path | None, out: Path, only: Sequence[str], sizes: dict[str, Size] | None = None
) -> Results:
    """Times the steps.

    Args:
        seeds: repetitions; 3 by default.
        data: not needed.
        out: folder for results.
        only: sizes, or back-ends; all if empty. detectron2 is left out where it is not installed.
        sizes: other ones, for tests.

    Raises:
        ValueError: no seed, or an unknown name.
    """
    count = 3 if seeds is None else seeds
    sizes = SIZES if sizes is None else sizes
    check_asked(only, [*sizes, *BACKENDS], count)
    results = Results("detection/step-cost", {"threads": torch.get_num_threads()})
    backends = [name for name in BACKENDS if name == "torchvision" or find_spec("detectron2")]
    for name in [name for name in sizes if name in only or not any(one in sizes for one in only)]:
        for backend in [one for one in backends if one in only or not any(other in BACKENDS for other in only)]:
            images, cached = _seconds(sizes[name], backend, count)
            row = f"{name}, {backend}"
            results.add(row, "image step ms", [1000 * value for value in images])
            results.add(row, "cached step ms", [1000 * value for value in cached])
            results.add(row, "times cheaper", [one / other for one, other in zip(images, cached, strict=True)])
            results.save(out)
    results.save(out)
    results.print()
    return results


def _seconds(size: Size, backend: str, repetitions: int) -> tuple[list[float], list[float]]:
    """Seconds of a step from images, and of one from cached regions, for every repetition."""
    detector = replace(size.detector, backend=backend, weights=None).build(3)  # type: ignore[arg-type]
    for module in detector.modules():
        if type(module).__name__ == "FrozenBatchNorm2d":  # random weights in a hundred layers overflow half precision
            module.weight.mul_(0.5)  # type: ignore[operator]
    scenes = _scenes(size.image, max(2, size.tuning.images))
    tuning = replace(size.tuning, method="replay", passes=1, unmarked=None)
    rows = extract(detector, scenes, batch_size=2)
    memory = tuning.new_memory(size.tuning.replay, size.tuning.replay, fingerprint=detector.fingerprint())
    assert memory is not None
    fill(memory, rows)
    many = take(rows, torch.arange(2 * size.tuning.regions) % len(rows["label"]))  # of more images there would be more
    found: tuple[list[float], list[float]] = [], []
    for _ in range(repetitions):
        for place, (cached, steps) in enumerate(((False, size.steps), (True, 10 * size.steps))):
            learned = copy.deepcopy(detector)
            timed = replace(tuning, cached=cached, steps=steps)
            progress = timed.tune(learned, scenes, memory, rows=many if cached else None, progress_bar=False)
            found[place].append(progress.seconds / steps)
    return found


def _scenes(size: tuple[int, int], n: int) -> DetectionSet:
    """Images of noise with three boxes each."""
    generator = torch.Generator().manual_seed(0)
    high, wide = size
    images, pictures = {}, []
    for number in range(n):
        corner = torch.rand(3, 2, generator=generator) * torch.tensor([wide / 2, high / 2])
        boxes = torch.cat([corner, corner + torch.tensor([wide / 3, high / 3])], 1)
        images[f"{number}"] = torch.randint(0, 256, (3, high, wide), dtype=torch.uint8, generator=generator)
        pictures.append(Picture(f"{number}", size, boxes, torch.arange(3), torch.zeros(3, dtype=torch.bool)))
    return DetectionSet(["a", "b", "c"], pictures, ImagesInMemory(images))
