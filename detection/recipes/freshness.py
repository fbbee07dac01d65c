"""Freshness of stored regions: rows written while the detector learned, rows of a final pass, rows extracted again.

The digits of the demo: a detector learns six, its memory is filled in one of three ways, and four new digits follow
from five boxes each, by replay. ``throughout``: rows are taken in at every step of the base training, so that most
features are of a backbone that went on learning. ``afterwards``: one pass over 300 images by the finished detector.
``again``: the images that the rows of ``throughout`` came from, passed once more by the finished detector. AP50 on test
scenes, and how far the features of ``throughout`` are from what the finished backbone makes of the same boxes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ...core.protocols.seeding import generator_at
from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from .. import demo
from ..data import DetectionSet
from ..detector import Detector
from ..evaluation import detect, judge
from ..memory import ROIMemory
from ..regions import fill, refilled
from ..scenes import digit_scenes

WRITTEN = ("throughout", "afterwards", "again")
DRAWS = 3
LEARNING_RATE = 0.003


def reproduce(*, seeds: int | None, data: Path | None, out: Path, only: Sequence[str]) -> Results:
    """Runs the table.

    Args:
        seeds: detectors, each with three draws of boxes; 2 by default.
        data: not needed.
        out: folder for results.
        only: ways of writing; all if empty.

    Raises:
        ValueError: no seed, or an unknown way.
    """
    count = 2 if seeds is None else seeds
    check_asked(only, WRITTEN, count)
    results = Results("detection/freshness", {"shot": demo.SHOT, "steps": demo.TUNING.steps, "lr": LEARNING_RATE})
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WRITTEN if not only or name in only}
    stale: list[float] = []
    before: list[float] = []
    for seed in range(count):
        start, memory, images = _base(seed)
        memories = {
            "throughout": memory,
            "afterwards": fill(_empty(seed, start.detector), start.rows),
            "again": refilled(memory, _empty(seed, start.detector), start.detector, images, seed=seed),
        }
        stale.append(staleness(memory, start.detector, images))
        before.append(judge(start.scenes[2], detect(start.detector, start.scenes[2], 50)).groups(start.base)["base"])
        for draw in range(DRAWS):
            own = count * draw + seed
            shots = demo.draw(start, own)
            for name, cells in found.items():
                detector = copy.deepcopy(shots.detector)
                tuning = replace(demo.TUNING, method="replay", lr=LEARNING_RATE)
                tuning.tune(
                    detector, shots.data, copy.deepcopy(memories[name]), rows=shots.rows, seed=own, progress_bar=False
                )
                cells.append(judge(start.scenes[2], detect(detector, start.scenes[2], 50)).groups(start.base))
        results.memory_bytes = memory.nbytes
    results.add("before", "base AP50", before)
    for name, cells in found.items():
        for group in ("base", "novel", "all"):
            results.add(name, f"{group} AP50", [cell[group] for cell in cells])
    results.add("throughout", "distance of features", stale)
    results.save(out)
    results.print(decimals=2)
    return results


def staleness(memory: ROIMemory, detector: Detector, data: DetectionSet) -> float:
    """Mean distance of stored features from what ``detector`` pools for the same boxes now, divided by the mean length
    of the latter. The images must not have been flipped or resized when the rows were written.
    """
    rows = memory.rows()
    off, length = 0.0, 0.0
    for number in rows["source"].unique().tolist():
        own = rows["source"] == number
        now = detector.pool([data.image(number)], [rows["proposal"][own]])
        off += float((rows["feature"][own].float() - now).flatten(1).norm(dim=1).sum())
        length += float(now.flatten(1).norm(dim=1).sum())
    return off / length


def _base(seed: int) -> tuple[demo.Start, ROIMemory, DetectionSet]:
    """A detector that knows the base digits, the memory that was written while it learned, and the images."""
    digits = torch.randperm(10, generator=generator_at(seed, "digits")).tolist()
    images = digit_scenes(600, digits[:6], size=64, seed=seed)
    memory = _empty(seed)
    return demo.learn_base(seed, memory), memory, images


def _empty(seed: int, detector: Detector | None = None) -> ROIMemory:
    known = None if detector is None else detector.fingerprint()
    return ROIMemory.of_rows(demo.OBJECTS, demo.BACKGROUND, logits=True, seed=seed, fingerprint=known)
