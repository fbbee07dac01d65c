"""Trains on several processes, of which the last one fails in the middle of the fifth step.

torchrun --nproc_per_node 2 failing.py OUT HOW

A process that fails because of another one writes how many seconds it had waited.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import replicated
import torch
from torch import Tensor, nn

from memreplay.core.loading import batches
from memreplay.core.training import fit, new_accelerator

HANGS = 120.0


def fail(how: str) -> None:
    if how == "exits":
        os._exit(17)
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        time.sleep(HANGS)
    raise ValueError("a fault of this process")


def main(out: str, how: str) -> None:
    torch.set_num_threads(1)
    accelerator = new_accelerator(timeout=8 if how == "hangs" else HANGS)
    assert accelerator.num_processes == int(os.environ["WORLD_SIZE"]) > 1
    model, optimizer, memory = replicated.make("uniform")
    last = accelerator.process_index == accelerator.num_processes - 1
    began = 0.0

    def forward(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        nonlocal began
        began = time.monotonic()
        if last and memory.step == 4:
            fail(how)
        return {"logits": model(batch["input"])}

    try:
        loader = batches(replicated.data(), 6)
        settings = {"out": Path(out, "run"), "save_every": 2, "progress_bar": False}
        fit(model, optimizer, loader, memory, steps=50, forward=forward, accelerator=accelerator, **settings)
    except Exception:
        if not last:
            Path(out, f"failed-{accelerator.process_index}").write_text(str(time.monotonic() - began))
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
