"""Trace: what a run recalled of its memory, how often and why, and what the memory took in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..stores.rows import Rows
from .turnover import Turnover

_PENDING = 512
"""Draws noted at least before they are counted."""
_COLUMNS = ("ids", "counts", "scores", "last")


@dataclass(frozen=True)
class Recalls:
    """Rows that were recalled, the most frequent first.

    Attributes:
        ids: int64 (n,), arrival numbers; -1 stands for all rows that a memory made up.
        counts: int64 (n,), how often.
        scores: float64 (n,), mean of what they were ranked by; NaN where a draw has no scores.
        last: int64 (n,), the step of the last time.
    """

    ids: Tensor
    counts: Tensor
    scores: Tensor
    last: Tensor


@dataclass
class _Draw:
    """The recalls of one draw, counted, and those yet to be."""

    selector: Any
    times: int = 0
    ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    last: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    pending: list[tuple[Tensor, Tensor | None, int]] = field(default_factory=list)
    patience: int = _PENDING

    def count(self) -> None:
        """Adds what is pending to the counts. It costs a sort of all, which waits until there is as much pending."""
        if not self.pending:
            return
        drawn, ranked_by, steps = zip(*self.pending, strict=True)
        sizes = [ids.shape[0] for ids in drawn]  # a third of what len takes
        new, step = torch.cat(drawn).numpy(), np.repeat(steps, sizes)
        score = np.full(len(new), np.nan)
        for end, n, scores in zip(np.cumsum(sizes).tolist(), sizes, ranked_by, strict=True):
            if scores is not None:
                score[end - n : end] = scores.detach().cpu().double().numpy()
        ids, place = np.unique(np.concatenate([self.ids, new]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([self.counts, np.ones(len(new))]), len(ids))
        last = np.zeros(len(ids), np.int64)
        last[place] = np.concatenate([self.last, step])  # of several the latest, which comes last
        self.scores = np.asarray(np.bincount(place, np.concatenate([self.scores, score]), len(ids)), np.float64)
        self.ids, self.counts, self.last = ids, counts.astype(np.int64), last
        self.patience = max(_PENDING, len(ids) * len(sizes) // max(1, len(new)))
        self.pending = []


class Trace:
    """Keeps account of what a `ReplayMemory` recalls and remembers: ``ReplayMemory(store, trace=Trace())``.

    A step notes which rows came, without looking at them; they are counted later, many at once. Memory grows with the
    number of different rows recalled, 32 bytes each. On several processes the draws as a whole are counted, on each of
    them alike, and rows travel to all processes to be counted, also those that no memory wants. With the memory it is
    saved and goes on; a memory without a trace is what it would be without this class.

    Args:
        label: column with the classes of the rows that are remembered.

    >>> memory = ReplayMemory(Store(100), replay=2, trace=Trace())
    >>> memory.remember(input=torch.randn(8, 4), label=torch.arange(8))
    >>> recalled = memory.recall(), memory.recall()
    >>> memory.trace.counts(torch.arange(8)).sum()
    tensor(4)
    """

    def __init__(self, label: str = "label") -> None:
        self.turnover = Turnover(label)
        """What became of the rows that were offered."""
        self._draws: dict[str, _Draw] = {}

    def recalled(self, name: str, selector: Any, rows: Rows, step: int) -> None:
        """Notes a draw.

        Args:
            name: of the draw.
            selector: that chose the rows.
            rows: as drawn.
            step: at which.
        """
        draw = self._draws.get(name)
        if draw is None:
            draw = self._draws[name] = _Draw(selector)
        draw.times += 1
        draw.pending.append((rows.ids, rows.scores, step))
        if len(draw.pending) > draw.patience:
            draw.count()

    def recalls(self, name: str | None = None) -> Recalls:
        """The rows recalled by the draw ``name``, or by all.

        Raises:
            KeyError: there was no such draw.
        """
        if name is not None and name not in self._draws:
            raise KeyError(f"name is {name!r}; expected one of the draws {sorted(self._draws)}")
        draws = list(self._draws.values()) if name is None else [self._draws[name]]
        for draw in draws:
            draw.count()
        parts = [(draw.ids, draw.counts, draw.scores, draw.last) for draw in draws]
        none = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))
        all_ids, all_counts, all_scores, all_last = (np.concatenate(part) for part in zip(none, *parts, strict=True))
        ids, place = np.unique(all_ids, return_inverse=True)
        counts = np.bincount(place, all_counts, len(ids)).astype(np.int64)
        scores = np.bincount(place, all_scores, len(ids)) / counts
        last = np.zeros(len(ids), np.int64)
        np.maximum.at(last, place, all_last)
        order = np.argsort(-counts, kind="stable")
        return Recalls(*(torch.from_numpy(part[order]) for part in (ids, counts, scores, last)))

    def counts(self, ids: Tensor) -> Tensor:
        """How often each of the rows ``ids`` (n,) was recalled, int64 (n,)."""
        found = self.recalls()
        order = torch.argsort(found.ids)
        known, times = found.ids[order], found.counts[order]
        if not len(known):
            return torch.zeros_like(ids)
        place = torch.searchsorted(known, ids).clamp(max=len(known) - 1)
        return torch.where(known[place] == ids, times[place], 0)

    def why(self, row: int) -> list[dict[str, Any]]:
        """For each draw that recalled the row with the id ``row``: its name, its selector, how often, the mean score
        (None without scores), and the step of the last time.
        """
        found = []
        for name, draw in self._draws.items():
            draw.count()
            at = int(np.searchsorted(draw.ids, row))
            if at < len(draw.ids) and draw.ids[at] == row:
                times, score = int(draw.counts[at]), float(draw.scores[at])
                mean = None if np.isnan(score) else score / times
                told = {"times": times, "score": mean, "last": int(draw.last[at])}
                found.append({"draw": name, "selector": str(draw.selector), **told})
        return found

    def summary(self) -> dict[str, dict[str, Any]]:
        """Of every draw, by name: its selector, how often it was taken, rows recalled, and different ones among them;
        JSON-able.
        """
        told = {}
        for name, draw in self._draws.items():
            draw.count()
            rows = {"rows": int(draw.counts.sum()), "distinct": len(draw.ids)}
            told[name] = {"selector": str(draw.selector), "times": draw.times, **rows}
        return told

    # -- state --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All counts: ``"tensors"`` by name, and a JSON-able ``"meta"``."""
        turnover = self.turnover.state_dict()
        tensors = {f"turnover.{name}": values for name, values in turnover["tensors"].items()}
        meta: list[dict[str, Any]] = []
        for number, (name, draw) in enumerate(self._draws.items()):
            draw.count()
            meta.append({"name": name, "selector": str(draw.selector), "times": draw.times})
            for column in _COLUMNS:
                tensors[f"{number}.{column}"] = torch.from_numpy(getattr(draw, column).copy())
        return {"tensors": tensors, "meta": {"draws": meta, "turnover": turnover["meta"]}}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Goes on where `state_dict` was taken; from nothing if ``state`` is None, which is no trace.

        Raises:
            ValueError: the state is damaged; the trace is unchanged.
        """
        loaded = Trace(self.turnover.label)
        try:
            if state is not None:
                tensors, meta = state["tensors"], state["meta"]
                counts = {name: tensors[f"turnover.{name}"] for name in loaded.turnover.state_dict()["tensors"]}
                loaded.turnover.load_state_dict({"tensors": counts, "meta": meta["turnover"]})
                for number, told in enumerate(meta["draws"]):
                    columns = {name: tensors[f"{number}.{name}"].numpy().copy() for name in _COLUMNS}
                    loaded._draws[told["name"]] = _Draw(told["selector"], told["times"], **columns)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"the state of the trace is damaged: {error!r}") from error
        self.turnover, self._draws = loaded.turnover, loaded._draws
