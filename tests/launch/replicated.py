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

from memreplay.core.batch import jagged
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
    View,
    learnable,
)
from memreplay.core.retrievers.nearest import Nearest
from memreplay.core.retrievers.prioritized import Prioritized
from memreplay.core.retrievers.rescored import Rescored
from memreplay.core.selection import ClassBalanced, Uniform
from memreplay.core.stores import Ragged, Store
from memreplay.core.stores.keeping import Fifo, Reservoir, TopScore
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
    clip_norm: float | None = None
    batch_norm: bool = False
    ragged: bool = False


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
    "accumulation, clipped": Scenario(
        JointCrossEntropy(), {"replay": 5}, keep=ClassBalanced(Reservoir()), accumulate=3, clip_norm=0.3
    ),
    "frozen batch norm": Scenario(CrossEntropy() + ReplayCrossEntropy(), {"replay": 5}, batch_norm=True),
    "ragged": Scenario(CrossEntropy() + ReplayCrossEntropy(), {"replay": 5}, ragged=True),
    "ragged, balanced": Scenario(
        CrossEntropy() + ReplayCrossEntropy(), {"replay": 5}, keep=ClassBalanced(Reservoir()), ragged=True
    ),
    "newest": Scenario(CrossEntropy() + ReplayCrossEntropy(), {"replay": 5}, keep=Fifo()),
    "hardest": Scenario(CrossEntropy() + ReplayCrossEntropy(), {"replay": 5}, keep=TopScore("priority")),
    "no memory": Scenario(CrossEntropy(), {"replay": 0}),
}


class FrozenBatchNorm(nn.BatchNorm1d):
    """Normalises by statistics that stay as they are."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.running_mean.fill_(0.3)
        self.running_var.fill_(2.0)

    def train(self, mode: bool = True) -> FrozenBatchNorm:
        return super().train(False)


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


def net(*layers: nn.Module) -> nn.Module:
    """A small net, with ``layers`` behind the first one."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), *layers, nn.Tanh(), nn.Linear(16, CLASSES)).double()


def forward(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    logits = model(batch["input"])
    return {"logits": logits, "output": logits}


def make(name: str) -> tuple[nn.Module, torch.optim.Optimizer, ReplayMemory]:
    scenario = SCENARIOS[name]
    model = net(*([FrozenBatchNorm(16)] if scenario.batch_norm else []))
    for module in learnable(scenario.mix):
        for parameter in module.parameters():
            parameter.data.zero_()
    store = Recorder(20, keep=scenario.keep, columns={"items": Ragged()} if scenario.ragged else None)
    store.drawn = []
    memory = ReplayMemory(store, mix=scenario.mix, **scenario.settings)
    learned = [parameter for module in learnable(scenario.mix) for parameter in module.parameters()]
    return model, torch.optim.SGD([*model.parameters(), *learned], lr=0.1, momentum=0.5), memory


def run(name: str, steps: int, accelerator: Accelerator, **settings: Any) -> dict[str, Any]:
    """Trains one scenario; parameters, losses, rows drawn, rows held, on this process."""
    scenario = SCENARIOS[name]
    model, optimizer, memory = make(name)

    def worst(rows: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return nn.functional.cross_entropy(model(rows["input"]), rows["label"], reduction="none")

    def remembered(view: View) -> dict[str, Tensor]:
        columns = {name: view.column(name) for name in ("input", "label", "target", "priority")}
        columns["logits"] = view.output("logits")
        if scenario.ragged:
            items = zip(columns["input"], columns["label"].tolist(), strict=True)
            columns["items"] = jagged([values[:n] for values, n in items])
        return columns

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
        remember=remembered,
        clip_norm=scenario.clip_norm,
        accelerator=accelerator,
        progress_bar=False,
        **settings,
    )
    memory.detach()  # it would be saved and loaded with what the accelerator runs next
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
