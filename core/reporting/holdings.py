"""Holdings: what there is in a saved memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..checkpoint import latest
from ..selection import Selector
from ..stores.files import read_save
from ..stores.gaussian import GaussianStore
from ..stores.spec import build
from ..stores.store import Store
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
    folder = Path(memory)
    try:
        if not folder.exists():
            raise FileNotFoundError("there is no such folder")
        if (checkpoint := latest(folder / "checkpoints")) is not None:
            folder = checkpoint / "memory"
        tensors, meta = read_save(folder)
        trace = _trace(folder / "replay")
        names = meta.get("classes")
        told = {
            place: _of_state(_within(tensors, place), part, names if isinstance(names, dict) else {}, trace)
            for place, part in _memories(meta)
        }
        if not told:
            raise ValueError(f"it holds a {meta.get('kind')!r} without a memory")
    except (KeyError, OSError, TypeError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, OSError) else ValueError
        said = error if isinstance(error, OSError | ValueError) else f"it is damaged: {error!r}"
        expected = "expected the folder of a saved memory, adapter or run"
        raise kind(f"memory is {str(memory)!r}: {said}; {expected}") from error
    return {"folder": str(folder), "kind": meta["kind"], "memories": told}


def _memories(meta: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The memories that the meta of a save describes, with the prefix of their tensors."""
    if meta.get("kind") in ("Store", "GaussianStore"):
        yield place, dict(meta)
        return
    for name, part in meta.items():
        if isinstance(part, Mapping):
            yield from _memories(part, f"{place}{name}.")


def _of_state(tensors: dict[str, Tensor], meta: dict[str, Any], names: dict[str, str], trace: Trace | None) -> Any:
    state = {"tensors": tensors, "meta": meta}
    if meta["kind"] == "GaussianStore":
        return _gaussian(GaussianStore.of_state(state), names, trace)
    return _store(Store.of_state(state, keep=_policy(meta["keep"])), tensors, names, trace)


def _gaussian(memory: GaussianStore, names: Mapping[str, str], trace: Trace | None) -> dict[str, Any]:
    told = {"kind": "GaussianStore", **memory.summary()}
    classes = {_named(label, names): {"rows": count} for label, count in told.pop("classes").items()}
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
    label = getattr(store.keep, "column", "label")
    classes = {}
    if label in rows and rows[label].dim() == 1 and not rows[label].is_floating_point():
        labels = rows[label]
        for number in labels.unique().tolist():
            of = labels == number
            entry: dict[str, Any] = {"rows": int(of.sum()), "age": float(age[of].double().median())}
            if trace is not None:
                entry["recalled"] = float(times[of].double().mean())
            classes[_named(number, names)] = entry
        if trace is not None:
            kept = trace.turnover.summary(labels)
            turnover = {_named(number, names): counts for number, counts in kept.items()}
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


def _named(label: int | str, names: Mapping[str, str]) -> str:
    return names.get(str(label), str(label))


def _trace(folder: Path) -> Trace | None:
    """The trace that was saved with a `ReplayMemory`, if there was one."""
    if not (folder / "manifest.json").exists():
        return None
    tensors, meta = read_save(folder)
    if "trace" not in meta:
        return None
    trace = Trace()
    trace.load_state_dict({"tensors": _within(tensors, "trace."), "meta": meta["trace"]})
    return trace


def _within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start so, by the rest of their names."""
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}


class _Unknown:
    """A policy of a user's own, of which a save has no more than the name. It is not asked to keep anything."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def key(self, batch: Mapping[str, Tensor], generator: Any) -> Tensor:
        raise TypeError(f"{self.name} is known by its name only; expected that it is not asked to keep rows")


def _policy(text: str) -> Selector:
    try:
        policy: Selector = build(text, "keep")
    except ValueError:
        return _Unknown(text)
    return policy
