"""Holdings: what there is in a saved memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..stores.gaussian import GaussianStore
from ..stores.store import Store
from .saved import EXPECTED, Saved, class_column, named
from .trace import Trace

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def holdings(memory: str | Path) -> dict[str, Any]:
    """What there is in the save of a `Store`, a `GaussianStore`, a `ReplayMemory` or an adapter, or in the last
    checkpoint of a run; JSON-able.

    Returns:
        ``folder``, ``kind``, and under ``memories`` what each memory in the save holds, by its place there (``""`` for
        the save itself): rows, bytes, columns, classes, quantiles of age, keys and scores (least, quarters, greatest),
        what was forgotten, and, where a `Trace` was saved, what was recalled and kept.

    Raises:
        FileNotFoundError: there is no save.
        ValueError: it is damaged, or holds no memory.
    """
    saved = Saved.read(memory)
    if not saved.memories:
        raise ValueError(f"memory is {str(memory)!r}: it holds a {saved.kind!r} without a memory; {EXPECTED}")
    told = {
        place: _gaussian(held, saved.names, saved.trace)
        if isinstance(held, GaussianStore)
        else _store(held, saved.tensors_of(place), saved.names, saved.trace)
        for place, held in saved.memories.items()
    }
    return {"folder": str(saved.folder), "kind": saved.kind, "memories": told}


def _gaussian(memory: GaussianStore, names: Mapping[str, str], trace: Trace | None) -> dict[str, Any]:
    told = {"kind": "GaussianStore", **memory.summary()}
    classes = {named(label, names): {"rows": count} for label, count in told.pop("classes").items()}
    recalled = None if trace is None else {"draws": trace.summary()}
    return {**told, "classes": classes, "forgotten": memory.audit, "recalled": recalled, "quantiles": {}}


def _store(store: Store, tensors: dict[str, Tensor], names: Mapping[str, str], trace: Trace | None) -> dict[str, Any]:
    told = {"kind": "Store", **store.summary()}
    told.pop("classes", None)
    rows, n = store.rows(), len(store)
    sizes = _sizes(tensors, told["columns"])
    columns = {name: {**schema, "bytes": sizes[name]} for name, schema in told["columns"].items()}
    age = store.seen - 1 - rows.ids
    measured = {"age": age, "key": tensors["books.key"]}
    measured |= {name: c for name, c in rows.items() if not c.is_nested and c.dim() == 1 and c.is_floating_point()}
    recalled = turnover = None
    if trace is not None:
        measured["times recalled"] = times = trace.counts(rows.ids)
        recalled = {"draws": trace.summary(), "never": int((times == 0).sum())}
    classes = {}
    if (label := class_column(store.keep, rows)) is not None:
        labels = rows[label]
        for number in labels.unique().tolist():
            of = labels == number
            entry: dict[str, Any] = {"rows": int(of.sum()), "age": float(age[of].double().median())}
            if trace is not None:
                entry["recalled"] = float(times[of].double().mean())
            classes[named(number, names)] = entry
        if trace is not None:
            kept = trace.turnover.summary(labels, rows.ids)
            turnover = {named(number, names): counts for number, counts in kept.items()}
    return {
        **told,
        "columns": columns,
        "books": told["bytes"] - sum(sizes.values()) if n else 0,
        "classes": classes,
        "quantiles": {name: _quantiles(values) for name, values in measured.items() if n},
        "forgotten": store.audit,
        "recalled": recalled,
        "turnover": turnover,
    }


def _quantiles(values: Tensor) -> list[float | None]:
    """None for those that are no finite numbers, which JSON does not know."""
    found: list[float] = np.quantile(values.cpu().double().numpy(), _QUANTILES).tolist()
    return [value if np.isfinite(value) else None for value in found]


def _sizes(tensors: Mapping[str, Tensor], columns: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of each column, scales and offsets included: its tensors have its name, or go on after it with a dot."""
    sizes = dict.fromkeys(columns, 0)
    for tensor, values in tensors.items():
        if tensor.startswith("columns."):
            name = tensor.removeprefix("columns.")
            sizes[max((c for c in columns if f"{name}.".startswith(f"{c}.")), key=len)] += values.nbytes
    return sizes
