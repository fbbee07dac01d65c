"""Teaches a detector new classes from regions, on however many processes there are, and writes the weights it has then.

Started by torchrun with a folder; every process writes ``rank-<n>.pt`` to it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memreplay.core.training import new_accelerator
from memreplay.detection.faster_rcnn import FasterRCNN
from memreplay.detection.regions import extract, fill
from memreplay.detection.scenes import digit_scenes
from memreplay.detection.tuning import FineTuning

SMALL = FasterRCNN("small", None, (4, 8), 8, 3, 16, 16, 0.5, 20, 48, 48, 12, (1.0,))
REGIONS = 16
"""Of all processes together, per step."""


def learned(accelerator: Any) -> dict[str, Tensor]:
    """The weights of the box head after a few steps."""
    scenes = digit_scenes(8, [0, 1, 2], size=48, seed=1)
    detector = SMALL.build(3)
    tuning = FineTuning("distill", steps=6, regions=REGIONS // accelerator.num_processes, replay=8, passes=1, lr=0.05)
    memory = tuning.new_memory(20, 10, fingerprint=detector.fingerprint())
    assert memory is not None
    fill(memory, extract(detector, scenes.of(["0", "1"])))
    tuning.tune(detector, scenes, memory, accelerator=accelerator, progress_bar=False)
    return {name: values.detach().cpu() for name, values in detector.heads.state_dict().items()}


def main() -> None:
    accelerator = new_accelerator()
    weights = learned(accelerator)
    torch.save(
        {"weights": weights, "processes": accelerator.num_processes},
        Path(sys.argv[1], f"rank-{accelerator.process_index}.pt"),
    )
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
