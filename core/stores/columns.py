"""Columns: how the values of one name are laid out in a store.

A column *kind* (`Plain`, `Half`, `BFloat16`, `Quantized`, `Growable`, `Ragged`) is a small immutable description. The
first batch binds it to a *storage*, which owns the bytes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..batch import from_offsets, gather_jagged, jagged, offsets_of

Index: TypeAlias = slice | Tensor
"""Rows of a storage: a slice, or int64 slots on the CPU."""


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

    @abstractmethod
    def encode(self, values: Tensor, rows: Tensor | None) -> Any:
        """``values[rows]`` (all of them if None) as they will be stored; nothing is written."""

    @abstractmethod
    def finite(self, encoded: Any) -> Tensor | bool:
        """Whether every encoded number is finite; on a GPU a boolean tensor, so that nothing waits for it."""

    def fit(self, values: Tensor, size: int) -> None:  # noqa: B027 (most columns have nothing to do)
        """Makes room for rows like ``values``; called before they are written, with ``size`` rows held."""

    @abstractmethod
    def write(self, index: Index, encoded: Any, rows: Tensor | None = None) -> None:
        """Stores ``encoded[rows]`` (all of it if None) at ``index``."""

    @abstractmethod
    def read(self, index: Index) -> Tensor:
        """The rows at ``index`` in the dtype they came in, copied."""

    def view(self, stop: int, start: int = 0) -> Tensor:
        """Rows ``start .. stop - 1`` for reading only; without a copy where the layout allows."""
        return self.read(slice(start, stop))

    @abstractmethod
    def move(self, source: Tensor, target: Tensor) -> None:
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


def all_finite(values: Tensor) -> Tensor | bool:
    """Whether no element is NaN or infinite; on a GPU a boolean tensor."""
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    if not values.is_floating_point():
        return True
    if values.itemsize == 1:
        values = values.to(torch.float32)  # there is little arithmetic in eight bits
    if values.device.type == "cpu":
        # one pass: a sum is finite only if its terms are; the slow test settles sums that overflowed
        total = values.sum(dtype=torch.float32 if values.dtype in (torch.float16, torch.bfloat16) else None).item()
        return math.isfinite(total) or bool(values.isfinite().all())
    return values.isfinite().all()


@torch.inference_mode(False)  # what is allocated in inference mode could not be written to outside it
def allocate(shape: Sequence[int], dtype: torch.dtype, device: torch.device, folder: Path | None, name: str) -> Tensor:
    """Uninitialised memory; in a shared memory-mapped file under ``folder`` if one is given."""
    if folder is None or math.prod(shape) == 0:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    folder.mkdir(parents=True, exist_ok=True)
    safe = "".join(c if c.isalnum() or c in "-_" else f"%{ord(c):x}" for c in name)
    file = folder / f"{safe}.column"
    file.unlink(missing_ok=True)  # a mapping of the old file, if any, stays valid until it is dropped
    return torch.from_file(str(file), shared=True, size=math.prod(shape), dtype=dtype).view(tuple(shape))


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
        self._shape, self._dtype, self._folder = sample.shape[1:], sample.dtype, folder
        self._data = allocate((capacity, *self._shape), dtype, device, folder, name)

    def accepts(self, values: Tensor) -> bool:
        return (
            values.dtype is self._dtype
            and not values.is_nested
            and values.dim() == len(self._shape) + 1
            and values.shape[1:] == self._shape
        )

    def schema(self) -> dict[str, Any]:
        return {"kind": repr(self.kind), "dtype": str(self._dtype).removeprefix("torch."), "shape": list(self._shape)}

    def encode(self, values: Tensor, rows: Tensor | None) -> Any:
        return _select(values, rows).to(device=self._data.device, dtype=self._data.dtype, non_blocking=True)

    def finite(self, encoded: Any) -> Tensor | bool:
        return all_finite(encoded)

    def write(self, index: Index, encoded: Any, rows: Tensor | None = None) -> None:
        _put(self._data, index, _select(encoded, rows))

    def read(self, index: Index) -> Tensor:
        rows = _get(self._data, index)
        return rows if rows.dtype is self._dtype else rows.to(self._dtype)

    def view(self, stop: int, start: int = 0) -> Tensor:
        return self._data[start:stop].to(self._dtype)

    def move(self, source: Tensor, target: Tensor) -> None:
        _put(self._data, target, _get(self._data, source))

    def clear(self, start: int, stop: int) -> None:
        self._data[start:stop].zero_()

    def resize(self, capacity: int, size: int) -> None:
        self._data = _resized(self._data, capacity, size, self._folder, self.name)

    def row_bytes(self, values: Tensor | None = None) -> int:
        return math.prod(self._shape) * self._data.element_size()

    def tensors(self, size: int) -> dict[str, Tensor]:
        return {self.name: _real(self._data[:size])}

    def restore(self, tensors: Mapping[str, Tensor], size: int) -> None:
        rows = _real(self._data[:size])
        _check(tensors, self.name, tuple(rows.shape), rows.dtype)
        rows.copy_(tensors[self.name])


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
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        capacity, device = self._data.shape[0], self._data.device
        self._scale = allocate((capacity,), torch.float32, device, self._folder, f"{self.name}.scale")

    def encode(self, values: Tensor, rows: Tensor | None) -> Any:
        exact = _select(values, rows).to(device=self._data.device, dtype=torch.float32, non_blocking=True)
        flat = exact.reshape(len(exact), -1)
        largest = flat.abs().amax(1) if flat.shape[1] else flat.new_zeros(len(flat))
        scale = largest / 127
        steps = torch.where(scale > 0, scale, torch.ones_like(scale))
        return (flat / steps[:, None]).round_().to(torch.int8).reshape(exact.shape), scale

    def finite(self, encoded: Any) -> Tensor | bool:
        return all_finite(encoded[1] * 127)  # what the largest numbers are read back as

    def write(self, index: Index, encoded: Any, rows: Tensor | None = None) -> None:
        super().write(index, encoded[0], rows)
        _put(self._scale, index, _select(encoded[1], rows))

    def read(self, index: Index) -> Tensor:
        return self._decode(_get(self._data, index), _get(self._scale, index))

    def view(self, stop: int, start: int = 0) -> Tensor:
        return self._decode(self._data[start:stop], self._scale[start:stop])

    def _decode(self, levels: Tensor, scale: Tensor) -> Tensor:
        return (levels.to(torch.float32) * scale.view(-1, *[1] * len(self._shape))).to(self._dtype)

    def move(self, source: Tensor, target: Tensor) -> None:
        super().move(source, target)
        _put(self._scale, target, _get(self._scale, source))

    def clear(self, start: int, stop: int) -> None:
        super().clear(start, stop)
        self._scale[start:stop].zero_()

    def resize(self, capacity: int, size: int) -> None:
        super().resize(capacity, size)
        self._scale = _resized(self._scale, capacity, size, self._folder, f"{self.name}.scale")

    def row_bytes(self, values: Tensor | None = None) -> int:
        return super().row_bytes(values) + self._scale.element_size()

    def tensors(self, size: int) -> dict[str, Tensor]:
        return {**super().tensors(size), f"{self.name}.scale": self._scale[:size]}

    def restore(self, tensors: Mapping[str, Tensor], size: int) -> None:
        _check(tensors, f"{self.name}.scale", (size,), torch.float32)
        super().restore(tensors, size)
        self._scale[:size].copy_(tensors[f"{self.name}.scale"])


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

    def write(self, index: Index, encoded: Any, rows: Tensor | None = None) -> None:
        width = encoded.shape[1]
        _put(self._data[:, :width], index, _select(encoded, rows))
        if width < self._shape[0]:
            if isinstance(index, slice):
                self._data[index, width:] = math.nan
            else:
                self._data[:, width:].index_fill_(0, _on(index, self._data.device), math.nan)

    def row_bytes(self, values: Tensor | None = None) -> int:
        width = self._shape[0] if values is None else max(self._shape[0], values.shape[1])
        return width * self._data.element_size()

    def fit(self, values: Tensor, size: int) -> None:
        self._widen(values.shape[1], size)

    def _widen(self, width: int, size: int) -> None:
        self._used = max(self._used, width)
        if width <= self._shape[0]:
            return
        old = self._data
        self._shape = torch.Size((width,))
        self._data = allocate((len(old), width), old.dtype, old.device, self._folder, self.name)
        self._data[:size, : old.shape[1]] = old[:size]
        self._data[:size, old.shape[1] :] = math.nan

    def read(self, index: Index) -> Tensor:
        return super().read(index)[:, : self._used]

    def view(self, stop: int, start: int = 0) -> Tensor:
        return super().view(stop, start)[:, : self._used]

    def tensors(self, size: int) -> dict[str, Tensor]:
        return {self.name: self._data[:size, : self._used].contiguous()}

    def restore(self, tensors: Mapping[str, Tensor], size: int) -> None:
        given = tensors.get(self.name)
        width = given.shape[1] if given is not None and given.dim() == 2 else self._used
        _check(tensors, self.name, (size, width), self._data.dtype)
        self._widen(width, 0)
        self._used = width
        self._data[:size, width:] = math.nan
        self._data[:size, :width].copy_(tensors[self.name])


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
        with torch.inference_mode(False):
            self._starts = torch.zeros(capacity, dtype=torch.int64)
            self._lengths = torch.zeros(capacity, dtype=torch.int64)
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

    def encode(self, values: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        flat = values.values()
        offsets = offsets_of(values).cpu()
        if rows is None:
            return flat.to(self._values.device), offsets
        return gather_jagged(flat.to(self._values.device), offsets[rows], offsets[rows + 1] - offsets[rows])

    def finite(self, encoded: tuple[Tensor, Tensor]) -> Tensor | bool:
        return all_finite(encoded[0])

    def write(self, index: Index, encoded: tuple[Tensor, Tensor], rows: Tensor | None = None) -> None:
        flat, offsets = encoded
        if rows is not None:
            flat, offsets = gather_jagged(flat, offsets[rows], offsets[rows + 1] - offsets[rows])
        lengths = offsets.diff()
        self._lengths[index] = 0
        if self._end + len(flat) > len(self._values):
            self._pack(room=len(flat))
        self._values[self._end : self._end + len(flat)] = flat
        self._starts[index] = self._end + offsets[:-1]
        self._lengths[index] = lengths
        self._end += len(flat)

    def _pack(self, room: int = 0) -> None:
        """Moves the rows in use to the front of a buffer with room for as much again."""
        used = self._lengths > 0
        flat, offsets = gather_jagged(self._values, self._starts[used], self._lengths[used])
        size = 2 * (len(flat) + room)
        self._values = allocate((size, *self._shape), self._dtype, flat.device, self._folder, self.name)
        self._values[: len(flat)] = flat
        self._values[len(flat) :] = 0  # memory that was given back may hold rows that are to be forgotten
        self._starts[used] = offsets[:-1]
        self._end = len(flat)

    def read(self, index: Index) -> Tensor:
        flat, offsets = gather_jagged(self._values, self._starts[index], self._lengths[index])
        return from_offsets(flat, offsets.to(flat.device))

    def move(self, source: Tensor, target: Tensor) -> None:
        self._starts[target] = self._starts[source]
        self._lengths[target] = self._lengths[source]
        self._lengths[source] = 0

    def clear(self, start: int, stop: int) -> None:
        self._lengths[start:stop] = 0
        self._pack()

    def resize(self, capacity: int, size: int) -> None:
        self._starts = _resized(self._starts, capacity, size, None, self.name)
        self._lengths = _resized(self._lengths, capacity, size, None, self.name)
        self._lengths[size:] = 0

    def row_bytes(self, values: Tensor | None = None) -> int:
        return 16

    def nbytes(self, size: int) -> int:
        element = math.prod(self._shape) * self._values.element_size()
        return 16 * size + int(self._lengths[:size].sum()) * element

    def tensors(self, size: int) -> dict[str, Tensor]:
        flat, offsets = gather_jagged(self._values, self._starts[:size], self._lengths[:size])
        return {self.name: flat, f"{self.name}.offsets": offsets}

    def restore(self, tensors: Mapping[str, Tensor], size: int) -> None:
        _check(tensors, f"{self.name}.offsets", (size + 1,), torch.int64)
        offsets = tensors[f"{self.name}.offsets"].cpu()
        if int(offsets[0]) != 0 or bool((offsets.diff() < 0).any()):
            raise ValueError(f"{self.name}.offsets does not start at 0 or falls; expected rising offsets")
        _check(tensors, self.name, (int(offsets[-1]), *self._shape), self._dtype)
        self._lengths.zero_()
        self._end = 0
        self.write(slice(0, size), (tensors[self.name].to(self._values.device), offsets))


def _is_packed(rows: Tensor) -> bool:
    """Whether the nested tensor ``rows`` has the jagged layout without gaps."""
    return rows.layout is torch.jagged and rows.lengths() is None  # type: ignore[attr-defined]


def _need_floating(name: str, kind: ColumnKind, sample: Tensor) -> None:
    if not sample.is_floating_point():
        raise ValueError(f"column {name!r} is {sample.dtype}; {kind} expects floating-point values")


def _select(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values.index_select(0, _on(rows, values.device))


def _on(index: Tensor, device: torch.device) -> Tensor:
    """``index`` on ``device`` without waiting for the work queued there."""
    if device.type == "cpu":
        return index
    return (index.pin_memory() if device.type == "cuda" and not index.is_cuda else index).to(device, non_blocking=True)


def _get(data: Tensor, index: Index) -> Tensor:
    return data[index].clone() if isinstance(index, slice) else data.index_select(0, _on(index, data.device))


def _put(data: Tensor, index: Index, values: Tensor) -> None:
    if isinstance(index, slice):
        data[index] = values
        return
    bits = _BITS.get(data.dtype)
    if bits is not None:
        data, values = data.view(bits), values.resolve_conj().view(bits)
    if data.device.type == "cpu" and data.dim() > 1:
        # several times as fast as index_copy_ with few threads
        data.numpy()[index.numpy()] = values.resolve_conj().resolve_neg().numpy()
    else:
        data.index_copy_(0, _on(index, data.device), values)


_BITS = {torch.bfloat16: torch.int16, torch.complex32: torch.int32} | {
    **{getattr(torch, f"uint{bits}"): getattr(torch, f"int{bits}") for bits in (16, 32, 64)},
    **{getattr(torch, f"float8_{name}"): torch.uint8 for name in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")},
}
"""Dtypes of the same size for those that numpy does not know or torch cannot copy by index."""


def _real(rows: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, which every file format knows."""
    return torch.view_as_real(rows) if rows.is_complex() else rows


def _resized(data: Tensor, capacity: int, size: int, folder: Path | None, name: str) -> Tensor:
    resized = allocate((capacity, *data.shape[1:]), data.dtype, data.device, folder, name)
    resized[:size] = data[:size]
    return resized


def _check(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if name not in tensors:
        raise ValueError(f"tensor {name!r} is missing; expected {dtype} of shape {shape}")
    given = tensors[name]
    if tuple(given.shape) != shape or given.dtype != dtype:
        raise ValueError(f"tensor {name!r} is {given.dtype} {tuple(given.shape)}; expected {dtype} {shape}")
