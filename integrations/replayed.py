"""Replayed: the loss of recalled rows beside one that a trainer computes; what its callbacks share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ..core.batch import to_device
from ..core.memory import Loss, ReplayMemory
from ..core.mixers import Forward, Sum, View, learnable


def check(memory: ReplayMemory) -> None:
    """Refuses a memory whose mix needs more than recalled rows.

    Raises:
        ValueError: a term that reads new rows, one with parameters, or a projection of gradients.
    """
    mix = memory.mix
    terms = mix.terms if isinstance(mix, Sum) else (mix,)
    if on_new := [term for term in terms if not getattr(term, "reads", None)]:
        raise ValueError(
            f"mix has {on_new}, on new rows, whose loss the trainer computes by itself; expected terms on recalled "
            "rows alone, such as mix=ReplayCrossEntropy()"
        )
    if any(True for _ in learnable(mix)):
        raise ValueError(f"mix is {mix!r}, with parameters that the trainer's optimizer does not have")
    if memory.project is not None:
        raise ValueError(f"project is {memory.project!r}; expected None: the other gradient is the trainer's")


def replay_loss(memory: ReplayMemory, model: nn.Module, forward: Forward, device: torch.device) -> Loss | None:
    """The terms on what is recalled for this step, by a forward of its own; None while there is nothing to recall."""
    recalled = memory.recall()
    views = {}
    for name, rows in (recalled or {}).items():
        if len(rows):
            there = rows.to(device)
            views[name] = View(there, forward(model, to_device(there.columns, device)))
    return memory.loss(View({}, {}), views) if views else None


class Processes:
    """What `ReplayMemory.attach` asks of an accelerator, for a trainer that shows none.

    Args:
        rank: of this process.
        size: processes that take part.
        device: of this process.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.process_index, self.num_processes, self.device = rank, size, device
        self.is_main_process = rank == 0
        self.gradient_state: Any = SimpleNamespace(end_of_dataloader=False, remainder=-1, active_dataloader=None)

    def register_save_state_pre_hook(self, hook: object) -> Any:
        """The trainer's own checkpoints hold the memory: there is nothing to register."""
        return SimpleNamespace(remove=lambda: None)

    register_load_state_pre_hook = register_save_state_pre_hook
