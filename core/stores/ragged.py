"""Ragged: a column whose rows differ in length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import from_offsets, gather_jagged, jagged, offsets_of
from .block import Index, allocate
from .columns import ColumnKind, Storage, check


@dataclass(frozen=True)
class Ragged(ColumnKind):
    """Rows of differing length (tokens, texts, thumbnails of differing size flattened), without padding.

    Batches hold nested tensors in the jagged layout, or lists that `memreplay.core.batch.jagged` understands (tensors,
    sequences of integers, texts as UTF-8 bytes); rows are read back as such nested tensors.
    """

    def blank(self, dtype: torch.dtype, shape: Sequence[Any]) -> Tensor:
        return from_offsets(torch.empty((0, *shape[1:]), dtype=dtype), torch.zeros(1, dtype=torch.int64))

    def convert(self, name: str, values: object) -> Tensor:
        if isinstance(values, (list, tuple)):
            return jagged(values).detach()
        if not isinstance(values, Tensor):
            raise TypeError(f"column {name!r} is a {type(values).__name__}; expected a nested tensor or a list of rows")
        values = values.detach()
        if values.is_nested:
            return values if _is_packed(values) else jagged(values.unbind())
        if values.dim() < 2:
            raise ValueError(f"column {name!r} has shape {tuple(values.shape)}; expected rows with a length each")
        offsets = torch.arange(len(values) + 1, device=values.device) * values.shape[1]
        return from_offsets(values.flatten(0, 1), offsets)

    def bind(self, name: str, sample: Tensor, capacity: int, device: torch.device, folder: Path | None) -> Storage:
        return _RaggedStorage(name, self, sample, capacity, device, folder)


class _RaggedStorage(Storage):
    """Values one after the other, appended as rows arrive; compacted when the buffer is full."""

    fixed_size = False

    def __init__(
        self, name: str, kind: ColumnKind, sample: Tensor, capacity: int, device: torch.device, folder: Path | None
    ) -> None:
        self.name, self.kind, self._folder = name, kind, folder
        flat = sample.values()
        self._dtype, self._shape = flat.dtype, flat.shape[1:]
        self._starts = np.zeros(capacity, np.int64)
        self._lengths = np.zeros(capacity, np.int64)
        self._values = allocate((0, *self._shape), self._dtype, device, None, name)
        self._end = 0

    def accepts(self, values: Tensor) -> bool:
        return (
            values.is_nested
            and values.dtype is self._dtype
            and _is_packed(values)
            and values.values().shape[1:] == self._shape
        )

    def schema(self) -> dict[str, Any]:
        shape = ["any", *self._shape]
        return {"kind": repr(self.kind), "dtype": str(self._dtype).removeprefix("torch."), "shape": shape}

    def encode(
        self, values: Tensor, rows: NDArray[np.int64] | None, trusted: bool = False
    ) -> tuple[Tensor, NDArray[np.int64]]:
        encoded = values.values().to(self._values.device), offsets_of(values).cpu().numpy()
        if rows is not None:
            encoded = _rows_of(encoded, rows)
        if not trusted:
            self.require_finite(encoded[0])
        return encoded

    def write(
        self, index: Index, encoded: tuple[Tensor, NDArray[np.int64]], rows: NDArray[np.int64] | None = None
    ) -> None:
        flat, offsets = encoded if rows is None else _rows_of(encoded, rows)
        self._lengths[index] = 0
        if self._end + len(flat) > len(self._values):
            self._pack(room=len(flat))
        self._values[self._end : self._end + len(flat)] = flat
        self._starts[index] = self._end + offsets[:-1]
        self._lengths[index] = np.diff(offsets)
        self._end += len(flat)

    def _pack(self, room: int = 0) -> None:
        """Moves the rows in use to the front of a buffer with room for as much again."""
        used = np.flatnonzero(self._lengths)
        flat, offsets = self._gathered(used)
        size = 2 * (len(flat) + room)
        self._values = allocate((size, *self._shape), self._dtype, flat.device, self._folder, self.name)
        self._values[: len(flat)] = flat
        self._values[len(flat) :] = 0  # memory that was given back may hold rows that are to be forgotten
        self._starts[used] = offsets[:-1]
        self._end = len(flat)

    def _gathered(self, index: Index) -> tuple[Tensor, Tensor]:
        """Values and offsets of some rows, copied."""
        starts, lengths = torch.from_numpy(self._starts[index]), torch.from_numpy(self._lengths[index])
        return gather_jagged(self._values, starts, lengths)

    def read(self, index: Index) -> Tensor:
        flat, offsets = self._gathered(index)
        return from_offsets(flat, offsets.to(flat.device))

    def move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        self._starts[target] = self._starts[source]
        self._lengths[target] = self._lengths[source]
        self._lengths[source] = 0

    def clear(self, start: int, stop: int) -> None:
        self._lengths[start:stop] = 0
        self._pack()

    def resize(self, capacity: int, size: int) -> None:
        starts, lengths = self._starts, self._lengths
        self._starts, self._lengths = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
        self._starts[:size], self._lengths[:size] = starts[:size], lengths[:size]

    def row_bytes(self, values: Tensor | None = None) -> int:
        return 16

    def nbytes(self, size: int) -> int:
        element = math.prod(self._shape) * self._values.element_size()
        return 16 * size + int(self._lengths[:size].sum()) * element

    def tensors(self, size: int) -> dict[str, Tensor]:
        flat, offsets = self._gathered(slice(size))
        return {self.name: flat, f"{self.name}.offsets": offsets}

    def restore(self, tensors: Mapping[str, Tensor], size: int) -> None:
        check(tensors, f"{self.name}.offsets", (size + 1,), torch.int64)
        offsets = tensors[f"{self.name}.offsets"].cpu().numpy()
        if offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise ValueError(f"{self.name}.offsets does not start at 0 or falls; expected rising offsets")
        check(tensors, self.name, (int(offsets[-1]), *self._shape), self._dtype)
        self._lengths[:] = 0
        self._end = 0
        self.write(slice(0, size), (tensors[self.name].to(self._values.device), offsets))


def _rows_of(encoded: tuple[Tensor, NDArray[np.int64]], rows: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
    flat, offsets = encoded
    starts = offsets[rows]
    values, chosen = gather_jagged(flat, torch.from_numpy(starts), torch.from_numpy(offsets[rows + 1] - starts))
    return values, chosen.numpy()


def _is_packed(rows: Tensor) -> bool:
    """Whether the nested tensor ``rows`` has the jagged layout without gaps."""
    return rows.layout is torch.jagged and rows.lengths() is None  # type: ignore[attr-defined]
