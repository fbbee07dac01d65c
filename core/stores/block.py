"""Block: rows of one shape in one piece of memory, and the quickest way in and out of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Index: TypeAlias = slice | NDArray[np.int64]
"""Rows of a block: a slice, or slots."""

Lane: TypeAlias = tuple[torch.dtype, tuple[int, ...], int, int, bool, int, int]
"""Rows in plain memory: dtype and shape of a row, the address, bytes of a row, whether rows are written past the cache,
bytes of a floating-point number in it (0 if there is none) and the bits that are all set where such a number is
infinite or NaN."""

LINE = 64
"""Bytes that a processor reads and writes at a time; rows that begin with a line are written faster."""

CACHED = 4 << 20
"""Bytes of a block that may stay in a processor's cache."""

LONG = 512
"""Bytes of a row from which on it pays to write it past the cache, if the block does not stay there anyway."""

Values: TypeAlias = Tensor | NDArray[Any]
"""Rows on their way into a block: an array where numpy writes them, else a tensor."""


class Block:
    """Preallocated rows. On a CPU those of the usual dtypes go through numpy, whose calls cost a fraction of torch's.

    Args:
        shape: (capacity, ...).
        dtype: of the rows.
        device: where they live.
        folder: for a memory-mapped file, or None.
        name: of that file.
    """

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, folder: Path | None, name: str
    ) -> None:
        self._folder, self._name = folder, name
        self._hold(allocate(shape, dtype, device, folder, name))

    def _hold(self, data: Tensor) -> None:
        self.data, self._array_dtype = data, data.dtype
        self._array = data.numpy() if data.device.type == "cpu" and data.dtype in _NUMPY else None

    def prepare(self, values: Tensor, rows: NDArray[np.int64] | None) -> Values:
        """``values[rows]`` (all if None) in the dtype and on the device of the block."""
        if self._array is not None and values.is_cpu and values.dtype is self._array_dtype:
            array: NDArray[Any] = values.numpy() if not values.is_neg() else values.numpy(force=True)
            return array if rows is None else array.take(rows, 0)
        chosen = values if rows is None else values.index_select(0, on(rows, values.device))
        return chosen.to(device=self.data.device, dtype=self.data.dtype, non_blocking=True)

    def put(self, index: Index, values: Values, width: int | None = None) -> None:
        """Writes rows, or the first ``width`` entries of each."""
        if self._array is not None:
            array = values if isinstance(values, np.ndarray) else values.numpy(force=True)
            if width is None:
                self._array[index] = array
            else:
                self._array[index, :width] = array
            return
        assert isinstance(values, Tensor)
        data = self.data if width is None else self.data[:, :width]
        if isinstance(index, slice):
            data[index] = values
            return
        bits = _BITS.get(data.dtype)
        if bits is not None:
            data, values = data.view(bits), values.resolve_conj().view(bits)
        if data.device.type == "cpu" and data.dim() > 1:
            data.numpy()[index] = values.numpy(force=True)  # several times as fast as index_copy_ with few threads
        else:
            data.index_copy_(0, on(index, data.device), values)

    def get(self, index: Index) -> Tensor:
        """Rows, copied."""
        if self._array is not None:
            rows = self._array[index].copy() if isinstance(index, slice) else self._array.take(index, 0)
            return torch.from_numpy(rows) if rows.size else torch.empty(rows.shape, dtype=self._array_dtype)
        return (
            self.data[index].clone()
            if isinstance(index, slice)
            else self.data.index_select(0, on(index, self.data.device))
        )

    def move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Copies rows ``source`` over rows ``target``."""
        self.put(target, self.get(source))

    def clear(self, start: int, stop: int) -> None:
        """Overwrites rows with zeros."""
        self.data[start:stop].zero_()

    def resize(self, shape: Sequence[int], size: int) -> None:
        """Another capacity or width (the last entries of a row are new), keeping the first ``size`` rows."""
        old = self.data
        self._hold(allocate(shape, old.dtype, old.device, self._folder, self._name))
        if old.dim() > 1 and shape[1] != old.shape[1]:
            self.data[:size, : old.shape[1]] = old[:size]
        else:
            self.data[:size] = old[:size]


def lane_of(data: Tensor) -> Lane | None:
    """Where rows lie, or None if they are not in plain memory or are not copied bit by bit."""
    if data.device.type != "cpu" or data.dtype not in _DIGITS:
        return None
    shape = tuple(data.shape[1:])
    size = math.prod(shape) * data.itemsize
    return data.dtype, shape, data.data_ptr(), size, size >= LONG and data.nbytes > CACHED, *_DIGITS[data.dtype]


def room(n: int, lane: Lane) -> Tensor:
    """Uninitialised memory for ``n`` rows of a lane."""
    dtype = _NUMPY.get(lane[0])
    if dtype is None or not n:
        return torch.empty((n, *lane[1]), dtype=lane[0])
    return torch.from_numpy(np.empty((n, *lane[1]), dtype))  # in half the time of torch.empty


def surely_finite(values: Values) -> bool:
    """True only if no element of ``values`` is NaN or infinite; False is no answer.

    One quick pass over real floating-point arrays: squares add up to a finite number only if all are.
    """
    if values.__class__ is not np.ndarray:
        return False
    return math.isfinite(np.vdot(values, values))


def all_finite(values: Values) -> Tensor | bool:
    """Whether no element is NaN or infinite; on a GPU a boolean tensor."""
    if isinstance(values, np.ndarray):
        return values.dtype.kind != "f" or bool(np.isfinite(values).all())
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    if not values.is_floating_point():
        return True
    if values.itemsize == 1:
        values = values.to(torch.float32)  # there is little arithmetic in eight bits
    if values.device.type == "cpu":
        total = values.sum(dtype=torch.float32 if values.dtype in (torch.float16, torch.bfloat16) else None).item()
        return math.isfinite(total) or bool(values.isfinite().all())
    return values.isfinite().all()


@torch.inference_mode(False)  # what is allocated in inference mode could not be written to outside it
def allocate(shape: Sequence[int], dtype: torch.dtype, device: torch.device, folder: Path | None, name: str) -> Tensor:
    """Uninitialised memory; in a shared memory-mapped file under ``folder`` if one is given."""
    size = math.prod(shape)
    if device.type != "cpu" or size == 0:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    if folder is None:
        # numpy's large arrays lie in large pages, which are filled in half the time and found sooner
        room = np.empty(size * dtype.itemsize + LINE, np.uint8)
        start = -room.ctypes.data % LINE
        return torch.from_numpy(room[start : start + size * dtype.itemsize]).view(dtype).view(tuple(shape))
    folder.mkdir(parents=True, exist_ok=True)
    safe = "".join(c if c.isalnum() or c in "-_" else f"%{ord(c):x}" for c in name)
    file = folder / f"{safe}.column"
    file.unlink(missing_ok=True)  # a mapping of the old file, if any, stays valid until it is dropped
    return torch.from_file(str(file), shared=True, size=size, dtype=dtype).view(tuple(shape))


def on(index: NDArray[np.int64], device: torch.device) -> Tensor:
    """``index`` as a tensor on ``device``, without waiting for the work queued there."""
    moved = torch.from_numpy(index)
    if device.type == "cuda":
        moved = moved.pin_memory()
    return moved.to(device, non_blocking=True)


_NUMPY: dict[torch.dtype, np.dtype[Any]] = {
    getattr(torch, name): np.dtype(name)
    for name in ("float32", "float64", "bool", "uint8", "int8", "int16", "int32", "int64")
}
"""Dtypes that numpy handles as torch does, and quickly."""

_DIGITS = {
    **dict.fromkeys((torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64), (0, 0)),
    torch.float16: (2, 0x7C00),
    torch.bfloat16: (2, 0x7F80),
    torch.float32: (4, 0x7F800000),
    torch.float64: (8, 0x7FF0000000000000),
}
"""Of dtypes that lie in lanes: bytes of a floating-point number, and the bits of its exponent."""

_BITS = {torch.bfloat16: torch.int16, torch.complex32: torch.int32} | {
    **{getattr(torch, f"uint{bits}"): getattr(torch, f"int{bits}") for bits in (16, 32, 64)},
    **{getattr(torch, f"float8_{name}"): torch.uint8 for name in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")},
}
"""Dtypes of the same size for those that numpy does not know or torch cannot copy by index."""
