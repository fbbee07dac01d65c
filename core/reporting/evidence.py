"""Evidence: the remembered rows that speak for a prediction, and those that speak against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..readout import KNearest, counted
from ..stores.rows import Rows
from .shapley import KNNShapley


@dataclass(frozen=True)
class Evidence:
    """What the k nearest of the remembered rows say about Q predictions, the most similar first.

    Attributes:
        labels: int64 (Q,), the classes spoken for or against.
        index: int64 (Q, k), positions among the rows.
        ids: int64 (Q, k), arrival numbers of these rows.
        classes: int64 (Q, k).
        scores: (Q, k), similarity to the query.
        shares: (Q, k), of the vote; each line adds up to 1, and over `supports` to the probability of the class.
        values: float64 (Q, k), by `KNNShapley`: above 0, the vote for the class would lack something without the row.
    """

    labels: Tensor
    index: Tensor
    ids: Tensor
    classes: Tensor
    scores: Tensor
    shares: Tensor
    values: Tensor

    @property
    def supports(self) -> Tensor:
        """bool (Q, k): whether a row is of the class; the others oppose it."""
        return self.classes == self.labels[:, None]

    def told(self, query: int) -> dict[str, Any]:
        """The evidence of one prediction, JSON-able: its class, the rows ``for`` it and those ``against`` it."""
        rows = [
            {"id": row, "class": of, "similarity": round(score, 6), "share": round(share, 6), "value": round(value, 6)}
            for row, of, score, share, value in zip(
                *(part[query].tolist() for part in (self.ids, self.classes, self.scores, self.shares, self.values)),
                strict=True,
            )
        ]
        label = int(self.labels[query])
        sides = {"for": [row for row in rows if row["class"] == label]}
        return {"class": label, **sides, "against": [row for row in rows if row["class"] != label]}


def explain(rows: Rows, feature: Tensor, by: KNearest = KNearest(), label: Tensor | None = None) -> Evidence:  # noqa: B008
    """Why the nearest rows vote as they do: the exact share of each in the vote, and its Shapley value.

    The shares are those of ``by``, so that they add up to its probabilities; the values those of the unweighted vote of
    as many rows, with all rows of the memory taking part.

    Args:
        rows: of the memory, ``store.rows()``.
        feature: of the queries, (Q, D).
        by: who votes. Its metric cannot be ``"mahalanobis"``, for which there are no values.
        label: the classes to speak about, int64 (Q,); those predicted if None.

    Raises:
        ValueError: there are no rows, or the queries do not fit them.

    >>> import torch
    >>> store = Store(9)
    >>> _ = store.add({"feature": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), "label": torch.tensor([3, 7, 7])})
    >>> evidence = explain(store.rows(), torch.tensor([[0.9, 0.2]]), KNearest(2, temperature=1.0))
    >>> evidence.labels.tolist(), evidence.ids.tolist(), evidence.supports.tolist()
    ([3], [[0, 2]], [[True, False]])
    """
    if by.metric == "mahalanobis":
        raise ValueError("by has the metric 'mahalanobis'; expected 'cosine', 'euclidean' or 'dot'")
    scores, index, shares = by.votes(rows.columns, feature)
    labels = counted(rows[by.label], index, shares).labels if label is None else label.to(index.device)
    values = KNNShapley(by.k, by.metric, by.feature, by.label).of_each(rows.columns, feature, labels, index)
    ids, classes = (part.to(index.device)[index] for part in (rows.ids, rows[by.label]))
    return Evidence(labels, index, ids, classes, scores, shares, values)
