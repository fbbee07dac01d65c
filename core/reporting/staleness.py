"""Staleness: how far stored features have drifted from what the model gives today."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..stores.rows import Rows


@dataclass(frozen=True)
class Drift:
    """Cosines of stored and current features, over some rows: 1 where nothing has changed.

    Attributes:
        rows: how many.
        mean: their mean.
        median: their median.
        least: the smallest.
    """

    rows: int
    mean: float
    median: float
    least: float


@dataclass(frozen=True)
class Staleness:
    """How stale a memory is.

    Attributes:
        ids: int64 (N,), of the rows.
        cosines: float64 (N,), of each row's stored and current feature.
        of_all: over all rows.
        of_class: over the rows of each class, the most stale first; empty where rows have no label.
    """

    ids: Tensor
    cosines: Tensor
    of_all: Drift
    of_class: dict[int, Drift]


def staleness(
    rows: Rows,
    encoder: Callable[[Tensor], Tensor],
    read: str = "input",
    feature: str = "feature",
    label: str = "label",
    batch_size: int = 256,
) -> Staleness:
    """Compares stored features with those that ``encoder`` gives for the stored inputs; `Store.refresh` renews them.

    Args:
        rows: of the memory, ``store.rows()``.
        encoder: (B, ...) -> (B, ...), in whatever mode it is in; called without gradients.
        read: the column given to it.
        feature: the column compared with what it gives.
        label: the column with the classes.
        batch_size: rows per call.

    Raises:
        ValueError: there are no rows, a column is missing, or the encoder gives features of another shape.

    >>> store = Store(9)
    >>> _ = store.add({"input": torch.eye(2), "feature": torch.tensor([[2.0, 0.0], [1.0, 0.0]])})
    >>> staleness(store.rows(), lambda x: x).cosines
    tensor([1., 0.], dtype=torch.float64)
    """
    for name, column in (("read", read), ("feature", feature)):
        if column not in rows:
            raise ValueError(f"{name} is {column!r}; expected one of the columns {sorted(rows)}")
    if not len(rows) or batch_size < 1:
        raise ValueError(f"rows has {len(rows)} rows and batch_size is {batch_size}; expected at least 1 of each")
    parts = []
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            stored, now = rows[feature][part], encoder(rows[read][part])
            if now.shape != stored.shape:
                raise ValueError(f"encoder gave shape {tuple(now.shape)}; expected {tuple(stored.shape)}, as is stored")
            before, after = (values.flatten(1).cpu().double() for values in (stored, now))
            parts.append(F.cosine_similarity(before, after))
    cosines = torch.cat(parts)
    of_class = {}
    if label in rows:
        labels = rows[label].cpu()
        of_class = {number: _drift(cosines[labels == number]) for number in labels.unique().tolist()}
    ordered = dict(sorted(of_class.items(), key=lambda item: item[1].mean))
    return Staleness(rows.ids, cosines, _drift(cosines), ordered)


def _drift(cosines: Tensor) -> Drift:
    return Drift(len(cosines), float(cosines.mean()), float(cosines.quantile(0.5)), float(cosines.min()))
