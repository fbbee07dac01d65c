"""Resumable: a keeper whose state can be written down, and goes on from there as if nothing had been between."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
from torch import Tensor

from ..selection import Selector
from ..selection.top_score import column_of_numbers
from .columns import ColumnKind
from .files import Save, write_save
from .keeper import Keeper
from .spec import build


class Resumable(Keeper):
    """What a `Store` does to be saved, loaded and copied."""

    def state_dict(self) -> dict[str, Any]:
        """Everything the future depends on: ``{"tensors": ..., "meta": ...}``, copied; ``meta`` is JSON-able."""
        state = self._state()
        return {"tensors": {name: tensor.clone() for name, tensor in state["tensors"].items()}, "meta": state["meta"]}

    def _state(self) -> dict[str, Any]:
        self.check()
        tensors = {f"books.{name}": tensor for name, tensor in self._books.state().items()}
        now, block, at = self._uniforms.state()
        tensors.update({"draw_generator": now, "draw_generator.block": block, "draw_generator.at": torch.tensor([at])})
        tensors.update({f"columns.{name}": tensor for name, tensor in self._table.tensors(len(self)).items()})
        meta = {
            "kind": "Store",
            "keep": repr(self.keep),
            "columns": self._table.schema(),
            "kinds": {name: repr(kind) for name, kind in self._table.kinds.items()},
            "capacity": self.capacity,
            "budget": self._budget,
            "seed": self._seed,
            "ranked_by": self._ranked_by,
            "skipped": self.skipped,
            "audit": list(self.audit),
            "fingerprint": self.fingerprint,
        }
        return {"tensors": tensors, "meta": meta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken; on the same machine bit for bit.

        Raises:
            ValueError: the state is of another policy, capacity, encoder or other columns, or is damaged; the store is
                unchanged.
        """
        try:
            meta, tensors = state["meta"], state["tensors"]
            self._check_meta(meta)
            other = type(self)(
                meta["capacity"] or None,
                budget=None if meta["capacity"] else meta["budget"],
                keep=self.keep,
                columns=self._table.kinds,
                device=self._table.device,
                path=self._table.folder,
                seed=meta["seed"],
            )
            other._restore(meta, tensors)
            rest = meta["budget"], meta["ranked_by"], meta["skipped"], list(meta["audit"]), meta["fingerprint"]
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"the state of the store is damaged: {error!r}") from error
        self._books, self._table, self._pool = other._books, other._table, other._pool
        self._uniforms, self._seed = other._uniforms, other._seed
        self._budget, self._ranked_by, self.skipped, self.audit, self.fingerprint = rest

    def _check_meta(self, meta: Mapping[str, Any]) -> None:
        if meta.get("kind") != "Store":
            raise ValueError(f"the state is of a {meta.get('kind')!r}; expected a 'Store'")
        if _policy_name(meta["keep"]) != _policy_name(repr(self.keep)):
            raise ValueError(f"the state keeps by {meta['keep']}; this store keeps by {self.keep!r}")
        if self.capacity and meta["capacity"] != self.capacity:
            raise ValueError(f"the state has capacity {meta['capacity']}; this store has {self.capacity}")
        if self.fingerprint is not None and meta["fingerprint"] != self.fingerprint:
            raise ValueError(f"the state has encoder {meta['fingerprint']}; this store has {self.fingerprint}")
        here = self._table.schema()
        if here and meta["columns"] and here.keys() != meta["columns"].keys():
            raise ValueError(f"the state has columns {sorted(meta['columns'])}; this store has {sorted(here)}")
        for name, schema in meta["columns"].items():
            if here and here[name] != schema:
                raise ValueError(f"the state has column {name!r} as {schema}; this store has {here[name]}")
        kinds = {name: schema["kind"] for name, schema in meta["columns"].items()} | meta["kinds"]
        for name, kind in kinds.items():
            own = repr(self._table.kind(name))
            if kind != own:
                raise ValueError(f"the state stores column {name!r} as {kind}; this store as {own}")

    def _restore(self, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Fills a store just made; the caller drops it if this fails."""
        size = len(tensors["books.id"])
        self._table.bind_schema(meta["columns"], self.capacity)
        if isinstance(tensors, Save):  # straight into the columns, which hold nothing yet
            tensors = tensors.read({f"columns.{name}": rows for name, rows in self._table.tensors(size).items()})
        self._table.restore(_under("columns.", tensors), size)
        labels = None
        if self._group is not None and self._table.columns:
            labels = column_of_numbers({"label": self._table.column(self._group).view(size)}, "label").cpu().numpy()
        self._books.restore(_under("books.", tensors), labels)
        (at,) = tensors["draw_generator.at"].tolist()
        self._uniforms.restore(tensors["draw_generator"], tensors["draw_generator.block"], at)

    def save(self, folder: str | Path) -> None:
        """Writes the store to a folder: safetensors and a manifest, never pickle.

        The last save stays whole until the new one is complete on disk, whenever the process dies; then it is deleted.

        Raises:
            OSError: the folder cannot be written; the last save is untouched.
        """
        state = self._state()
        write_save(Path(folder), state["tensors"], state["meta"])

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        keep: Selector | None = None,
        columns: Mapping[str, ColumnKind] | None = None,
        device: torch.device | str = "cpu",
        path: str | Path | None = None,
        fingerprint: str | None = None,
    ) -> Self:
        """Reads a store written by `save`, checked byte for byte.

        Args:
            folder: where it was saved.
            keep: its policy, needed only if that is a class of your own or holds a function.
            columns: likewise, for column kinds of your own.
            device: where the columns shall live.
            path: see `Store`.
            fingerprint: if given, the encoder that the store must have been made with.

        Raises:
            FileNotFoundError: there is no save.
            ValueError: it is damaged, of a newer version, or of another encoder.
        """
        with Save(Path(folder)) as save:
            if save.meta.get("kind") != "Store":
                raise ValueError(f"{folder} holds a {save.meta.get('kind')!r}; expected a 'Store'")
            state = {"tensors": save, "meta": save.meta}
            return cls.of_state(state, keep=keep, columns=columns, device=device, path=path, fingerprint=fingerprint)

    @classmethod
    def of_state(
        cls,
        state: Mapping[str, Any],
        *,
        keep: Selector | None = None,
        columns: Mapping[str, ColumnKind] | None = None,
        device: torch.device | str = "cpu",
        path: str | Path | None = None,
        fingerprint: str | None = None,
    ) -> Self:
        """The store that `state_dict` was taken of; the arguments are those of `load`.

        Raises:
            ValueError: the state is damaged, or of another encoder.
        """
        try:
            meta = state["meta"]
            if keep is None:
                keep = build(meta["keep"], "keep")
            if columns is None:
                columns = {name: build(kind, "columns") for name, kind in meta["kinds"].items()}
            capacity, budget, seed = meta["capacity"] or None, meta["budget"], meta["seed"]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"the state of the store is damaged: {error!r}") from error
        store = cls(
            capacity,
            budget=None if capacity else budget,
            keep=keep,
            columns=columns,
            device=device,
            path=path,
            seed=seed,
            fingerprint=fingerprint,
        )
        store.load_state_dict(state)
        return store

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A store with rows of its own, in memory, that goes on as this one does."""
        twin = self.of_state(self._state(), keep=self.keep, columns=self._table.kinds, device=self._table.device)
        memo[id(self)] = twin
        return twin

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Store cannot be pickled or copied; expected save(folder), state_dict() or copy.deepcopy")


def _policy_name(text: str) -> str:
    """The policy as printed, without what follows where an argument is an object with an address."""
    return re.sub(r"<.*", "", text)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
