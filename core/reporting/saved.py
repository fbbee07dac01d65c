"""Saved: the memories of a save, read without knowing what else there is in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import latest
from ..selection import Selector
from ..stores.files import read_save
from ..stores.gaussian import GaussianStore
from ..stores.rows import Rows
from ..stores.spec import build
from ..stores.store import Store
from .trace import Trace

EXPECTED = "expected the folder of a saved memory, adapter or run"


@dataclass(frozen=True)
class Saved:
    """The memories in the save of a `Store`, a `GaussianStore`, a `ReplayMemory` or an adapter, or in the last
    checkpoint of a run.

    Attributes:
        folder: where the save is.
        kind: what it is of.
        names: of the classes, by their numbers as text, where the save has any.
        memories: by their place in the save, ``""`` for the save itself.
        trace: of what was recalled and kept, where there was one.
        tensors: all of the save.
    """

    folder: Path
    kind: str
    names: dict[str, str]
    memories: dict[str, Store | GaussianStore]
    trace: Trace | None
    tensors: dict[str, Tensor]

    @staticmethod
    def read(memory: str | Path) -> Saved:
        """Reads a save.

        Raises:
            FileNotFoundError: there is no save.
            ValueError: it is damaged.
        """
        folder = Path(memory)
        try:
            if not folder.exists():
                raise FileNotFoundError("there is no such folder")
            if (checkpoint := latest(folder / "checkpoints")) is not None:
                folder = checkpoint / "memory"
            tensors, meta = read_save(folder)
            names = meta.get("classes")
            memories = {place: _of_state(_within(tensors, place), part) for place, part in _memories(meta)}
            known = names if isinstance(names, dict) else {}
            return Saved(folder, str(meta["kind"]), known, memories, _trace(folder / "replay"), tensors)
        except (KeyError, OSError, TypeError, ValueError) as error:
            kind = FileNotFoundError if isinstance(error, OSError) else ValueError
            said = error if isinstance(error, OSError | ValueError) else f"it is damaged: {error!r}"
            raise kind(f"memory is {str(memory)!r}: {said}; {EXPECTED}") from error

    def tensors_of(self, place: str) -> dict[str, Tensor]:
        """The tensors of the memory at a place."""
        return _within(self.tensors, place)


def class_column(keep: object, rows: Mapping[str, Tensor] | Rows) -> str | None:
    """The column with the classes of the rows: the one that a policy goes by, if it holds whole numbers, otherwise
    ``label``; None where there is none.

    >>> import torch
    >>> class_column(TopScore("loss"), {"loss": torch.rand(3), "label": torch.arange(3)})
    'label'
    """
    for name in (getattr(keep, "column", "label"), "label"):
        if name in rows and not rows[name].is_nested and rows[name].dim() == 1 and not rows[name].is_floating_point():
            return str(name)
    return None


def named(label: int | str, names: Mapping[str, str]) -> str:
    """The name of a class, or its number where it has none."""
    return names.get(str(label), str(label))


def _memories(meta: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The memories that the meta of a save describes, with the prefix of their tensors."""
    if meta.get("kind") in ("Store", "GaussianStore"):
        yield place, dict(meta)
        return
    for name, part in meta.items():
        if isinstance(part, Mapping):
            yield from _memories(part, f"{place}{name}.")


def _of_state(tensors: dict[str, Tensor], meta: dict[str, Any]) -> Store | GaussianStore:
    state = {"tensors": tensors, "meta": meta}
    if meta["kind"] == "GaussianStore":
        return GaussianStore.of_state(state)
    return Store.of_state(state, keep=_policy(meta["keep"]))


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
