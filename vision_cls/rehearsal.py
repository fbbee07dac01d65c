"""Rehearsal: sessions among the first classes alone, by which settings are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.incremental import Method
from ..core.protocols.labels import rows_by_class
from ..core.protocols.metrics import harmonic_mean
from ..core.protocols.seeding import generator_at
from ..core.protocols.sessions import Sessions
from .session_methods import CANDIDATES, Candidate

LOSS = 0.5
"""Points of base accuracy that a candidate that `keeps_base` may lose to nearest class mean."""


@dataclass(frozen=True)
class Rehearsal:
    """Sessions among the classes of the first session alone, with as large a share of new classes as in the real ones.

    Attributes:
        sessions: over the rows of ``train``.
        train: ``feature`` and ``label``.
        test: rows of the same classes that ``train`` has not.
    """

    sessions: Sessions
    train: Batch
    test: Batch

    @staticmethod
    def of(base: Batch, novel: float, shot: int, seed: int, rows: int | None = None) -> Rehearsal:
        """Draws one.

        Args:
            base: rows of the first session.
            novel: share of the classes that play the new ones; they come in up to eight sessions of as many.
            shot: rows of each.
            seed: of classes and rows.
            rows: of each class that take part, a quarter of them to judge by; all by default.
        """
        learned, judged = [], []
        for name, members in rows_by_class(base["label"]).items():
            order = members[torch.randperm(len(members), generator=generator_at(seed, "rehearsal", name))][:rows]
            held_out = max(1, len(order) // 4)
            judged.append(order[:held_out])
            learned.append(order[held_out:])
        train, test = ({name: values[torch.cat(part)] for name, values in base.items()} for part in (learned, judged))
        classes = len(learned)
        way = max(1, round(classes * novel / 8))
        sessions = min(8, max(1, int(classes * novel) // way))
        stream = Sessions(train["label"], classes - way * sessions, way, shot, class_order="shuffled", seed=seed)
        return Rehearsal(stream, train, test)

    def base_and_novel(self, method: Method) -> tuple[float, float]:
        """Accuracies after the last session, in percent."""
        label = self.sessions.relabel(self.train["label"])
        for session in self.sessions:
            rows = {"feature": self.train["feature"][session.train], "label": label[session.train]}
            method.learn(rows, None, len(session.seen))
        right = predicted(method, self.test["feature"]) == self.sessions.relabel(self.test["label"])
        is_base = torch.isin(self.test["label"], self.sessions[0].classes)
        return tuple(100 * float(right[part].double().mean()) for part in (is_base, ~is_base))  # type: ignore[return-value]


def chosen(name: str, rehearsals: Sequence[Rehearsal]) -> dict[str, float]:
    """The setting of a candidate with the highest harmonic mean over the rehearsals."""
    candidate = CANDIDATES[name]
    settings = candidate.settings()
    if len(settings) == 1:
        return settings[0]

    def rehearsed(of: Candidate, setting: Mapping[str, Any]) -> tuple[float, float]:
        found = [r.base_and_novel(of.make(seed=0, classes=len(r.sessions.class_order), **setting)) for r in rehearsals]
        base, novel = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
        return base, harmonic_mean(base, novel)

    outcomes = [rehearsed(candidate, setting) for setting in settings]
    floor = rehearsed(CANDIDATES["ncm"], {})[0] - LOSS if candidate.keeps_base else -1.0
    eligible = [i for i, (base, _) in enumerate(outcomes) if base >= floor] or range(len(settings))
    return settings[max(eligible, key=lambda i: outcomes[i][1])]


def predicted(method: Method, feature: Tensor) -> Tensor:
    """The class of every vector, by its number in the stream."""
    assert method.head is not None
    with torch.no_grad():
        return method.head(feature).argmax(1)
