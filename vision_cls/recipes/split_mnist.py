"""Split-MNIST, class-incremental: ER, DER and DER++ at buffers of 200, 500 and 5120 rows.

The table of Buzzega et al., "Dark Experience for General Continual Learning" (NeurIPS 2020): five tasks of two digits,
one epoch, batches of ten, plain SGD, a perceptron with two hidden layers of 100, ten seeds. Accuracy is the mean over
the five tasks after the last, among all ten digits. Learning rates, replay batches and weights are the published ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch

from ...core.memory import ReplayMemory
from ...core.mixers import CrossEntropy, JointCrossEntropy, LogitDistillation, ReplayCrossEntropy
from ...core.protocols.sessions import Sessions
from ...core.reporting import Results
from ...core.reporting.results import replacing
from ...core.stores import Store
from ..backbones import MLP
from ..data import ImageSet, Split, torchvision_dataset
from ..incremental import Learner, Stage, learn_sessions

SEEDS = 10


@dataclass(frozen=True)
class Setting:
    """A cell of the table.

    Attributes:
        method: ``"sgd"``, ``"er"``, ``"der"`` or ``"der++"``.
        buffer: rows in the memory; 0 without one.
        published: accuracy in the paper's table, percent.
        lr: learning rate.
        replay: rows per draw.
        alpha: weight of the logits.
        beta: weight of the labels, for DER++.
    """

    method: str
    buffer: int
    published: float
    lr: float
    replay: int = 0
    alpha: float = 0.0
    beta: float = 0.0

    @property
    def name(self) -> str:
        """As in ``--only``."""
        return f"{self.method}-{self.buffer}" if self.buffer else self.method

    def learner(self, seed: int) -> Learner:
        """The method with an empty memory."""
        store = Store(self.buffer, seed=seed) if self.buffer else None
        match self.method:
            case "er":
                return Learner(ReplayMemory(store, mix=JointCrossEntropy(), replay=self.replay))
            case "der":
                mix = CrossEntropy() + self.alpha * LogitDistillation()
                return Learner(ReplayMemory(store, mix=mix, replay=self.replay), ("input", "logits"))
            case "der++":
                terms = self.beta * ReplayCrossEntropy("labels") + self.alpha * LogitDistillation("logits")
                draws = {"labels": self.replay, "logits": self.replay}
                memory = ReplayMemory(store, mix=CrossEntropy() + terms, replay=draws)
                return Learner(memory, ("input", "label", "logits"))
        return Learner()


TABLE = (
    Setting("sgd", 0, 19.60, 0.03),
    Setting("er", 200, 80.43, 0.01, 10),
    Setting("er", 500, 86.12, 0.1, 10),
    Setting("er", 5120, 93.40, 0.1, 10),
    Setting("der", 200, 84.55, 0.03, 10, 0.2),
    Setting("der", 500, 90.54, 0.03, 128, 1.0),
    Setting("der", 5120, 94.90, 0.1, 128, 0.5),
    Setting("der++", 200, 85.61, 0.03, 128, 0.2, 1.0),
    Setting("der++", 500, 91.00, 0.03, 10, 1.0, 0.5),
    Setting("der++", 5120, 95.30, 0.1, 64, 0.2, 0.5),
)


@cache
def _data(root: Path | None, split: Split) -> ImageSet:
    return torchvision_dataset("MNIST", split, root=root)


def run(setting: Setting, seed: int, root: Path | None) -> dict[str, float]:
    """One run of a cell: accuracy in percent, seconds of training, bytes of memory."""
    train, test = _data(root, "train"), _data(root, "test")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MLP(1, 28, 10)
    sessions = Sessions(train.labels, base=2, way=2, shot=None)
    stage = Stage(epochs=1, batch_size=10, lr=setting.lr)
    outcome = learn_sessions(
        setting.learner(seed), model, sessions, train, test, [stage], seed=seed, progress_bar=False, log_every=1000
    )
    return {
        "accuracy": outcome.matrix.average_accuracy,
        "forgetting": outcome.matrix.forgetting,
        "seconds": sum(outcome.seconds),
        "memory_bytes": outcome.memory_bytes,
    }


def reproduce(
    *, seeds: int | None = None, data: Path | None = None, out: Path, only: Sequence[str] = (), processes: int = 2
) -> Results:
    """Runs the table and prints ours beside the published figures.

    A run that is finished is kept in ``out/runs``; a reproduction that was stopped goes on from there.

    Args:
        seeds: how many, from 0; 10 as published by default.
        data: folder with MNIST (``mnist/*.gz`` or torchvision's layout); by default ``$MEMREPLAY_DATA`` or a download.
        out: folder for the results.
        only: cells, such as ``er-200``; or methods, such as ``er``; all by default.
        processes: runs at a time, one thread each.

    Raises:
        ValueError: ``only`` names no cell.
    """
    known = [setting.name for setting in TABLE] + [setting.method for setting in TABLE]
    for name in only:
        if name not in known:
            raise ValueError(f"only is {name!r}; expected one of {', '.join(dict.fromkeys(known))}")
    chosen = [s for s in TABLE if not only or s.name in only or s.method in only]
    numbers = range(SEEDS if seeds is None else seeds)
    results = Results("vision_cls/split-mnist", {"table": [vars(setting) for setting in chosen]})
    _data(data, "train")  # fetched once, before the processes need it
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        found = {s: [pool.submit(_kept, s, seed, data, out / "runs") for seed in numbers] for s in chosen}
        for setting, runs in found.items():
            outcomes = [run.result() for run in runs]
            accuracies = [outcome["accuracy"] for outcome in outcomes]
            results.add(setting.name, "accuracy", accuracies, setting.published)
            results.memory_bytes = max(results.memory_bytes, int(outcomes[0]["memory_bytes"]))
            print(f"{setting.name:<12} {sum(accuracies) / len(accuracies):.2f}  (published {setting.published:.2f})")
    results.print()
    print(f"accuracy in percent, mean ± 95 % interval over {len(numbers)} seeds; wrote {results.save(out)}")
    return results


def _kept(setting: Setting, seed: int, root: Path | None, folder: Path) -> dict[str, float]:
    """`run`, or what it found earlier with the same setting."""
    path = folder / f"{setting.name}-seed-{seed}.json"
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["setting"] == vars(setting):
            outcome: dict[str, float] = kept["outcome"]
            return outcome
    outcome = run(setting, seed, root)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(json.dumps({"setting": vars(setting), "outcome": outcome}))
    return outcome
