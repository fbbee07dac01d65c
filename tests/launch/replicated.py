"""Trains small models with replicated memories, on as many processes as it is started on, and writes what happened.

    torchrun --nproc_per_node 2 replicated.py OUT STEPS [SCENARIO ...]

Each scenario is one way to recall or to mix. On n processes a batch of 12 rows is n batches of 12 / n, so every
scenario must come out as on one process.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from memreplay.core.loading import batches
from memreplay.core.memory import ReplayMemory
from memreplay.core.mixers import (
    AGem,
    CrossEntropy,
    FeatureNoise,
    JointCrossEntropy,
    LogitDistillation,
    MaskedCrossEntropy,
    MeanSquaredError,
    ReplayCrossEntropy,
    ReplayMeanSquaredError,
    Term,
    UncertaintyWeighting,
    learnable,
)
from memreplay.core.retrievers.nearest import Nearest
from memreplay.core.retrievers.prioritized import Prioritized
from memreplay.core.retrievers.rescored import Rescored
from memreplay.core.selection import ClassBalanced, Uniform
from memreplay.core.stores import Store
from memreplay.core.stores.keeping import Reservoir
from memreplay.core.training import fit

ROWS, BATCH, CLASSES = 55, 12, 5  # 55 = 4 * 12 + 7: the last batch is uneven


@dataclass
class Scenario:
    mix: Term
    settings: dict[str, Any] = field(default_factory=dict)
    query: bool = False
    verdict: bool = False
    keep: Any = field(default_factory=Reservoir)
    accumulate: int = 1


SCENARIOS = {
    "uniform": Scenario(CrossEntropy() + 0.5 * ReplayCrossEntropy(), {"replay": 5}),
    "fewer rows than processes": Scenario(CrossEntropy() + ReplayCrossEntropy(), {"replay": 1}),
    "joint": Scenario(
        JointCrossEntropy(), {"replay": 7, "draw": ClassBalanced(Uniform())}, keep=ClassBalanced(Reservoir())
    ),
    "masked": Scenario(MaskedCrossEntropy() + ReplayCrossEntropy(), {"replay": 6}),
    "der++": Scenario(
        CrossEntropy() + 0.5 * ReplayCrossEntropy("labels") + 0.3 * LogitDistillation("logits"),
        {"replay": {"labels": 5, "logits": 4}, "transform": FeatureNoise(0.1, "input")},
    ),
    "query": Scenario(CrossEntropy() + ReplayCrossEntropy(), {"replay": 5, "draw": Nearest("input")}, query=True),
    "verdict": Scenario(
        CrossEntropy() + ReplayCrossEntropy(), {"replay": 5, "draw": Rescored(Uniform(), 12)}, verdict=True
    ),
    "importance weights": Scenario(
        CrossEntropy() + ReplayCrossEntropy(), {"replay": 5, "draw": Prioritized("priority")}
    ),
    "a-gem": Scenario(CrossEntropy() + ReplayCrossEntropy(), {"replay": 6, "project": AGem()}),
    "learned weights": Scenario(UncertaintyWeighting(CrossEntropy() + ReplayCrossEntropy()), {"replay": 6}),
    "regression": Scenario(MeanSquaredError() + ReplayMeanSquaredError(), {"replay": 5}),
    "accumulation": Scenario(CrossEntropy() + ReplayCrossEntropy(), {"replay": 5}, accumulate=2),
    "no memory": Scenario(CrossEntropy(), {"replay": 0}),
}


class Recorder(Store):
    """Notes which rows are drawn."""

    drawn: list[list[int]]

    def draw(self, *args: Any, **settings: Any) -> Any:
        rows = super().draw(*args, **settings)
        self.drawn.append(rows.ids.tolist())
        return rows


def data() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "input": torch.randn(ROWS, 6, generator=generator, dtype=torch.float64),
        "label": torch.randint(CLASSES, (ROWS,), generator=generator),
        "target": torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64),
        "priority": torch.rand(ROWS, generator=generator, dtype=torch.float64),
    }


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, CLASSES)).double()


def forward(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    logits = model(batch["input"])
    return {"logits": logits, "output": logits}


def make(name: str) -> tuple[nn.Module, torch.optim.Optimizer, ReplayMemory]:
    scenario = SCENARIOS[name]
    model = net()
    for module in learnable(scenario.mix):
        for parameter in module.parameters():
            parameter.data.zero_()
    store = Recorder(20, keep=scenario.keep)
    store.drawn = []
    memory = ReplayMemory(store, mix=scenario.mix, **scenario.settings)
    learned = [parameter for module in learnable(scenario.mix) for parameter in module.parameters()]
    return model, torch.optim.SGD([*model.parameters(), *learned], lr=0.1, momentum=0.5), memory


def run(name: str, steps: int, accelerator: Accelerator, **settings: Any) -> dict[str, Any]:
    """Trains one scenario; parameters, losses, rows drawn, rows held, on this process."""
    scenario = SCENARIOS[name]
    model, optimizer, memory = make(name)

    def worst(rows: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return nn.functional.cross_entropy(model(rows["input"]), rows["label"], reduction="none")

    losses = []
    compute = memory.loss

    def noted(*views: Any) -> Any:
        loss = compute(*views)
        losses.append(list(loss.floats().values()))
        return loss

    memory.loss = noted
    accelerator.gradient_accumulation_steps = scenario.accumulate
    fit(
        model,
        optimizer,
        batches(data(), BATCH // accelerator.num_processes),
        memory,
        steps=steps,
        forward=forward,
        query=(lambda batch: {"input": batch["input"]}) if scenario.query else None,
        score=worst if scenario.verdict else None,
        remember=("input", "label", "target", "priority", "logits"),
        accelerator=accelerator,
        progress_bar=False,
        **settings,
    )
    learned = [parameter for module in learnable(memory.mix) for parameter in module.parameters()]
    return {
        "parameters": [parameter.detach().clone() for parameter in (*model.parameters(), *learned)],
        "losses": losses,
        "drawn": memory.source.drawn,
        "held": memory.source.rows().ids.tolist(),
        "seen": memory.source.seen,
        "memory": memory.source.state_dict()["tensors"],
    }


def main(out: str, steps: str, *names: str) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    found = {name: run(name, int(steps), accelerator) for name in names or SCENARIOS}
    results = {"processes": accelerator.num_processes, "scenarios": found}
    torch.save(results, Path(out) / f"rank-{accelerator.process_index}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
