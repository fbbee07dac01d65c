"""Teaches a detector new classes from regions or from images, on however many processes there are, and writes the
weights it has then.

Started by torchrun with a folder and ``regions`` or ``images``; every process writes ``rank-<n>.pt`` to the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memreplay.core.training import new_accelerator
from memreplay.detection.data import DetectionSet
from memreplay.detection.faster_rcnn import FasterRCNN
from memreplay.detection.regions import extract, fill
from memreplay.detection.scenes import digit_scenes
from memreplay.detection.tuning import FineTuning

SMALL = FasterRCNN(
    "small",
    levels=(4, 8),
    channels=8,
    pool=3,
    head=16,
    regions=200,  # all there are, so that none is drawn at random
    positive=0.9,
    proposals=20,
    min_size=48,
    max_size=48,
    anchor=12,
    ratios=(1.0,),
)
REGIONS = 16
"""Of all processes together, per step."""
IMAGES = 2
"""Likewise."""


def scenes() -> DetectionSet:
    """With as many objects on each, so that every image counts as much."""
    made = digit_scenes(30, [0, 1, 2], size=48, seed=1)
    chosen = [picture for picture in made.pictures if len(picture.labels) == 3]
    return DetectionSet(made.classes, chosen[:8], made.files)


def learned(accelerator: Any, source: str) -> dict[str, Tensor]:
    """The weights of the box head after a few steps."""
    data = scenes()
    detector = SMALL.build(3)
    tuning = FineTuning(
        "distill",
        steps=6,
        cached=source == "regions",
        images=IMAGES // accelerator.num_processes,
        regions=REGIONS // accelerator.num_processes,
        replay=8,
        passes=1,
        lr=0.05,
    )
    memory = tuning.new_memory(20, 10, fingerprint=detector.fingerprint())
    assert memory is not None
    fill(memory, extract(detector, data.of(["0", "1"])))
    tuning.tune(detector, data, memory, accelerator=accelerator, progress_bar=False)
    return {name: values.detach().cpu() for name, values in detector.heads.state_dict().items()}


def main() -> None:
    accelerator = new_accelerator()
    weights = learned(accelerator, sys.argv[2])
    torch.save(
        {"weights": weights, "processes": accelerator.num_processes},
        Path(sys.argv[1], f"rank-{accelerator.process_index}.pt"),
    )
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
