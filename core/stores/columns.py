"""Columns: how the values of one name are laid out in a store.

A column *kind* (`Plain`, `Half`, `BFloat16`, `Quantized`, `Growable`, and `Ragged` in a module of its own) is a small
immutable description. The first batch binds it to a *storage*, which owns the bytes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .block import Block, Index, Lane, Values, all_finite, lane_of, on, surely_finite


class ColumnKind(ABC):
    """How a column is stored; immutable, and printed the way it is built."""

    @abstractmethod
    def bind(self, name: str, sample: Tensor, capacity: int, device: torch.device, folder: Path | None) -> Storage:
        """Storage for ``capacity`` rows like those of ``sample`` (B, ...)."""

    def blank(self, dtype: torch.dtype, shape: Sequence[Any]) -> Tensor:
        """No rows of the dtype and shape that a schema names, to `bind` with."""
        return torch.empty((0, *shape), dtype=dtype)

    def convert(self, name: str, values: object) -> Tensor:
        """What the caller handed in, as a tensor with one row per experience."""
        if not isinstance(values, Tensor):
            raise TypeError(f"column {name!r} is a {type(values).__name__}; expected a torch.Tensor")
        if values.layout not in (torch.strided, torch.jagged):
            raise TypeError(f"column {name!r} has the layout {values.layout}; expected a dense tensor")
        return values.detach()


class Storage(ABC):
    """The bytes of one column. Slots are ``0 .. capacity - 1``; the store decides which of them hold a row."""

    name: str
    kind: ColumnKind
    fixed_size = True
    """Whether every row costs the same number of bytes."""

    @abstractmethod
    def accepts(self, values: Tensor) -> bool:
        """Whether ``values`` (B, ...) has the shape and dtype of the column; a cheap test for the hot path."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """What a later batch or file must match, JSON-able."""

    lane: Lane | None = None
    """Where rows lie, if they are stored just as they come and in plain memory."""

    suspect: Tensor | None = None
    """On a GPU, where looking means waiting: whether all numbers encoded since the last check were finite."""

    @abstractmethod
    def encode(self, values: Tensor, rows: NDArray[np.int64] | None, trusted: bool = False) -> Any:
        """``values[rows]`` (all of them if None) as they will be stored; nothing is written.

        Raises:
            ValueError: a number is NaN, infinite or too large for the column; see `require_finite`. What is ``trusted``
                comes from a column like this one and is not looked at.
        """

    def require_finite(self, encoded: Values) -> None:
        """Raises ValueError if a number is NaN or infinite; on a GPU it makes a note in `suspect`."""
        finite = all_finite(encoded)
        if finite is True:
            return
        if isinstance(finite, Tensor):
            self.suspect = finite if self.suspect is None else self.suspect & finite
            return
        raise ValueError(
            f"column {self.name!r} holds numbers that are NaN, infinite or too large for {self.kind!r}; "
            "expected finite numbers"
        )

    def fit(self, values: Tensor, size: int) -> None:  # noqa: B027 (most columns have nothing to do)
        """Makes room for rows like ``values``; called before they are written, with ``size`` rows held."""

    @abstractmethod
    def write(self, index: Index, encoded: Any, rows: NDArray[np.int64] | None = None) -> None:
        """Stores ``encoded[rows]`` (all of it if None) at ``index``."""

    @abstractmethod
    def read(self, index: Index) -> Tensor:
        """The rows at ``index`` in the dtype they came in, copied."""

    def view(self, stop: int, start: int = 0) -> Tensor:
        """Rows ``start .. stop - 1`` for reading only; without a copy where the layout allows."""
        return self.read(slice(start, stop))

    @abstractmethod
    def move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Copies rows ``source`` over rows ``target``."""

    @abstractmethod
    def clear(self, start: int, stop: int) -> None:
        """Overwrites slots ``start .. stop - 1``, so that nothing of a removed row is left."""

    @abstractmethod
    def resize(self, capacity: int, size: int) -> None:
        """Room for ``capacity`` rows, keeping the first ``size``."""

    @abstractmethod
    def row_bytes(self, values: Tensor | None = None) -> int:
        """Bytes of a row with room for such as ``values``; where lengths differ, those that every row costs."""

    def nbytes(self, size: int) -> int:
        """Bytes of the first ``size`` rows."""
        return size * self.row_bytes()

    @abstractmethod
    def tensors(self, size: int) -> dict[str, Tensor]:
        """The first ``size`` rows as named tensors on their device, for `restore`; views where possible."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor], size: int) -> None:
        """Takes the rows written by `tensors`.

        Raises:
            ValueError: a tensor is missing or has another shape or dtype; nothing is changed.
        """


class _Dense(Storage):
    """Rows of one shape in one preallocated tensor, in the dtype they came in or in a narrower one."""

    def __init__(
        self,
        name: str,
        kind: ColumnKind,
        sample: Tensor,
        dtype: torch.dtype,
        capacity: int,
        device: torch.device,
        folder: Path | None,
    ) -> None:
        if sample.is_nested:
            raise ValueError(f"column {name!r} has rows of differing length; declare columns={{{name!r}: Ragged()}}")
        self.name, self.kind = name, kind
        self._shape, self._dtype = sample.shape[1:], sample.dtype
        self._fits = sample.shape  # the last batch that did: most are like it
        self._inexact = dtype.is_floating_point or dtype.is_complex
        self._block = Block((capacity, *self._shape), dtype, device, folder, name)
        self._find_lane()

    def _find_lane(self) -> None:
        plain = type(self) is _Dense and self._block.data.dtype is self._dtype
        self.lane = lane_of(self._block.data) if plain else None

    @property
    def _data(self) -> Tensor:
        return self._block.data

    def accepts(self, values: Tensor) -> bool:
        if values.dtype is not self._dtype or values.layout is not torch.strided or values.is_nested:
            return False
        shape = values.shape
        if shape == self._fits:
            return True
        fits = len(shape) == len(self._shape) + 1 and shape[1:] == self._shape
        if fits:
            self._fits = shape
        return fits

    def schema(self) -> dict[str, Any]:
        return {"kind": repr(self.kind), "dtype": str(self._dtype).removeprefix("torch."), "shape": list(self._shape)}

    def encode(self, values: Tensor, rows: NDArray[np.int64] | None, trusted: bool = False) -> Any:
        encoded = self._block.prepare(values, rows)
        if self._inexact and not trusted and not surely_finite(encoded):
            self.require_finite(encoded)
        return encoded

    def write(self, index: Index, encoded: Any, rows: NDArray[np.int64] | None = None) -> None:
        self._block.put(index, encoded if rows is None else chosen(encoded, rows))

    def read(self, index: Index) -> Tensor:
        rows = self._block.get(index)
        return rows if rows.dtype is self._dtype else rows.to(self._dtype)

    def view(self, stop: int, start: int = 0) -> Tensor:
        return self._data[start:stop].to(self._dtype)

    def move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        self._block.move(source, target)

    def clear(self, start: int, stop: int) -> None:
        self._block.clear(start, stop)

    def resize(self, capacity: int, size: int) -> None:
        self._block.resize((capacity, *self._data.shape[1:]), size)
        self._find_lane()

    def row_bytes(self, values: Tensor | None = None) -> int:
        return math.prod(self._shape) * self._data.element_size()

    def tensors(self, size: int) -> dict[str, Tensor]:
        return {self.name: _real(self._data[:size])}

    def restore(self, tensors: Mapping[str, Tensor], size: int) -> None:
        rows = _real(self._data[:size])
        check(tensors, self.name, tuple(rows.shape), rows.dtype)
        fill(rows, tensors[self.name])


@dataclass(frozen=True)
class Plain(ColumnKind):
    """Values stored exactly as they come, any dtype; the default."""

    def bind(self, name: str, sample: Tensor, capacity: int, device: torch.device, folder: Path | None) -> Storage:
        return _Dense(name, self, sample, sample.dtype, capacity, device, folder)


@dataclass(frozen=True)
class Half(ColumnKind):
    """Floating-point values in float16: half the bytes, about three digits, at most 65504 in magnitude.

    Rows are read back in the dtype they came in. A value that does not fit is refused.
    """

    def bind(self, name: str, sample: Tensor, capacity: int, device: torch.device, folder: Path | None) -> Storage:
        _need_floating(name, self, sample)
        return _Dense(name, self, sample, torch.float16, capacity, device, folder)


@dataclass(frozen=True)
class BFloat16(ColumnKind):
    """Floating-point values in bfloat16: half the bytes, two to three digits, the range of float32."""

    def bind(self, name: str, sample: Tensor, capacity: int, device: torch.device, folder: Path | None) -> Storage:
        _need_floating(name, self, sample)
        return _Dense(name, self, sample, torch.bfloat16, capacity, device, folder)


@dataclass(frozen=True)
class Quantized(ColumnKind):
    """Floating-point values in int8 with one float32 scale per row (symmetric, by the row's largest magnitude).

    The error is at most half a step, ``max|row| / 254``. A genuine ``torch.int8`` tensor is stored as it is.
    """

    def bind(self, name: str, sample: Tensor, capacity: int, device: torch.device, folder: Path | None) -> Storage:
        if sample.dtype is torch.int8:
            return _Dense(name, self, sample, torch.int8, capacity, device, folder)
        _need_floating(name, self, sample)
        return _QuantizedStorage(name, self, sample, torch.int8, capacity, device, folder)


class _QuantizedStorage(_Dense):
    def __init__(
        self,
        name: str,
        kind: ColumnKind,
        sample: Tensor,
        dtype: torch.dtype,
        capacity: int,
        device: torch.device,
        folder: Path | None,
    ) -> None:
        super().__init__(name, kind, sample, dtype, capacity, device, folder)
        self._scales = Block((capacity,), torch.float32, device, folder, f"{name}.scale")

    def encode(self, values: Tensor, rows: NDArray[np.int64] | None, trusted: bool = False) -> Any:
        exact = chosen(values, rows).to(device=self._data.device, dtype=torch.float32, non_blocking=True)
        flat = exact.reshape(len(exact), -1)
        largest = flat.abs().amax(1) if flat.shape[1] else flat.new_zeros(len(flat))
        scale = largest / 127
        steps = torch.where(scale > 0, scale, torch.ones_like(scale))
        if not trusted:
            self.require_finite(scale * 127)  # what the largest numbers are read back as
        return (flat / steps[:, None]).round_().to(torch.int8).reshape(exact.shape), scale

    def write(self, index: Index, encoded: Any, rows: NDArray[np.int64] | None = None) -> None:
        super().write(index, encoded[0], rows)
        self._scales.put(index, chosen(encoded[1], rows))

    def read(self, index: Index) -> Tensor:
        return self._decode(self._block.get(index), self._scales.get(index))

    def view(self, stop: int, start: int = 0) -> Tensor:
        return self._decode(self._data[start:stop], self._scales.data[start:stop])

    def _decode(self, levels: Tensor, scale: Tensor) -> Tensor:
        return (levels.to(torch.float32) * scale.view(-1, *[1] * len(self._shape))).to(self._dtype)

    def move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        super().move(source, target)
        self._scales.move(source, target)

    def clear(self, start: int, stop: int) -> None:
        super().clear(start, stop)
        self._scales.clear(start, stop)

    def resize(self, capacity: int, size: int) -> None:
        super().resize(capacity, size)
        self._scales.resize((capacity,), size)

    def row_bytes(self, values: Tensor | None = None) -> int:
        return super().row_bytes(values) + self._scales.data.element_size()

    def tensors(self, size: int) -> dict[str, Tensor]:
        return {**super().tensors(size), f"{self.name}.scale": self._scales.data[:size]}

    def restore(self, tensors: Mapping[str, Tensor], size: int) -> None:
        check(tensors, f"{self.name}.scale", (size,), torch.float32)
        super().restore(tensors, size)
        fill(self._scales.data[:size], tensors[f"{self.name}.scale"])


@dataclass(frozen=True)
class Growable(ColumnKind):
    """Rows (width,) whose width grows over time, such as the logits of a head that gains classes.

    All rows are read back at the widest width so far; positions beyond a row's own width are NaN, so that a
    distillation loss can use the stored width. Narrower rows may arrive at any time.

    Args:
        width: allocate for this many entries from the start, which saves the copies made when the column widens.
    """

    width: int = 0

    def blank(self, dtype: torch.dtype, shape: Sequence[Any]) -> Tensor:
        return torch.empty((0, 0), dtype=dtype)

    def bind(self, name: str, sample: Tensor, capacity: int, device: torch.device, folder: Path | None) -> Storage:
        _need_floating(name, self, sample)
        if sample.dim() != 2 or sample.is_nested:
            raise ValueError(f"column {name!r} has shape {tuple(sample.shape)}; Growable() expects (rows, width)")
        return _GrowableStorage(name, self, sample, max(self.width, sample.shape[1]), capacity, device, folder)


class _GrowableStorage(_Dense):
    def __init__(
        self,
        name: str,
        kind: ColumnKind,
        sample: Tensor,
        width: int,
        capacity: int,
        device: torch.device,
        folder: Path | None,
    ) -> None:
        super().__init__(name, kind, sample.new_empty(0, width), sample.dtype, capacity, device, folder)
        self._used = sample.shape[1]

    def accepts(self, values: Tensor) -> bool:
        return values.dtype is self._dtype and not values.is_nested and values.dim() == 2

    def schema(self) -> dict[str, Any]:
        return {"kind": repr(self.kind), "dtype": str(self._dtype).removeprefix("torch."), "shape": ["any"]}

    def write(self, index: Index, encoded: Any, rows: NDArray[np.int64] | None = None) -> None:
        width = encoded.shape[1]
        if width == self._shape[0]:
            super().write(index, encoded, rows)
            return
        self._block.put(index, chosen(encoded, rows), width)
        if isinstance(index, slice):
            self._data[index, width:] = math.nan
        else:
            self._data[:, width:].index_fill_(0, on(index, self._data.device), math.nan)

    def row_bytes(self, values: Tensor | None = None) -> int:
        width = self._shape[0] if values is None else max(self._shape[0], values.shape[1])
        return width * self._data.element_size()

    def fit(self, values: Tensor, size: int) -> None:
        self._widen(values.shape[1], size)

    def _widen(self, width: int, size: int) -> None:
        self._used = max(self._used, width)
        if width <= self._shape[0]:
            return
        narrow, self._shape = self._shape[0], torch.Size((width,))
        self._block.resize((len(self._data), width), size)
        self._data[:size, narrow:] = math.nan

    def read(self, index: Index) -> Tensor:
        return super().read(index)[:, : self._used]

    def view(self, stop: int, start: int = 0) -> Tensor:
        return super().view(stop, start)[:, : self._used]

    def tensors(self, size: int) -> dict[str, Tensor]:
        return {self.name: self._data[:size, : self._used].contiguous()}

    def restore(self, tensors: Mapping[str, Tensor], size: int) -> None:
        given = tensors.get(self.name)
        width = given.shape[1] if given is not None and given.dim() == 2 else self._used
        check(tensors, self.name, (size, width), self._data.dtype)
        self._widen(width, 0)
        self._used = width
        self._data[:size, width:] = math.nan
        self._data[:size, :width].copy_(tensors[self.name])


def _need_floating(name: str, kind: ColumnKind, sample: Tensor) -> None:
    if not sample.is_floating_point():
        raise ValueError(f"column {name!r} is {sample.dtype}; {kind} expects floating-point values")


def chosen(values: Values, rows: NDArray[np.int64] | None) -> Any:
    """``values[rows]``; all of them if None."""
    if rows is None:
        return values
    return (
        values.take(rows, axis=0) if isinstance(values, np.ndarray) else values.index_select(0, on(rows, values.device))
    )


def _real(rows: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, which every file format knows."""
    return torch.view_as_real(rows) if rows.is_complex() else rows


def fill(rows: Tensor, given: Tensor) -> None:
    """Copies ``given`` to ``rows``, unless that is where it lies: a save is read straight into the columns."""
    if given.data_ptr() != rows.data_ptr():
        rows.copy_(given)


def check(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raises ValueError unless ``tensors[name]`` has the given shape and dtype."""
    if name not in tensors:
        raise ValueError(f"tensor {name!r} is missing; expected {dtype} of shape {shape}")
    given = tensors[name]
    if tuple(given.shape) != shape or given.dtype != dtype:
        raise ValueError(f"tensor {name!r} is {given.dtype} {tuple(given.shape)}; expected {dtype} {shape}")
