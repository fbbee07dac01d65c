"""Batch: a dict of tensors that share their first dimension, one row per experience."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Batch: TypeAlias = dict[str, Tensor]
"""Columns by name; ``batch[name][i]`` belongs to row ``i``. Rows of differing length (tokens, texts) are nested
tensors in the jagged layout, see `jagged`."""


def batch_size(batch: Mapping[str, Tensor], name: str = "batch") -> int:
    """Number of rows of ``batch``, after checking that every column has that many.

    Raises:
        ValueError: no column, a column without a first dimension, or columns that disagree.
        TypeError: a column that is not a tensor.

    >>> batch_size({"input": torch.zeros(4, 2), "label": torch.arange(4)})
    4
    """
    size = -1
    first = ""
    for column, values in batch.items():
        if not isinstance(values, Tensor):
            raise TypeError(f"{name}[{column!r}] is a {type(values).__name__}; expected a torch.Tensor")
        if values.dim() == 0:
            raise ValueError(f"{name}[{column!r}] is a scalar; expected a tensor with one row per experience")
        rows = int(values.size(0))
        if size == -1:
            size, first = rows, column
        elif rows != size:
            raise ValueError(f"{name}[{column!r}] has {rows} rows; expected {size}, as {name}[{first!r}] has")
    if size == -1:
        raise ValueError(f"{name} has no columns; expected at least one tensor")
    return size


def take(batch: Mapping[str, Tensor], index: Tensor) -> Batch:
    """Rows ``index`` (int64, (n,)) of every column, copied.

    >>> take({"label": torch.tensor([5, 6, 7])}, torch.tensor([2, 0]))
    {'label': tensor([7, 5])}
    """
    return {name: _take_column(values, index) for name, values in batch.items()}


def concat(batches: Sequence[Mapping[str, Tensor]]) -> Batch:
    """The rows of ``batches`` one after the other; only columns that all of them have are kept.

    Raises:
        ValueError: no batch, no common column, or columns whose shapes or dtypes differ.

    >>> concat([{"label": torch.tensor([1])}, {"label": torch.tensor([2, 3])}])
    {'label': tensor([1, 2, 3])}
    """
    if not batches:
        raise ValueError("batches is empty; expected at least one batch")
    names = [name for name in batches[0] if all(name in other for other in batches[1:])]
    if not names:
        raise ValueError(f"batches share no column: {[sorted(b.keys()) for b in batches]}")
    return {name: _concat_column(name, [batch[name] for batch in batches]) for name in names}


def to_device(batch: Mapping[str, Tensor], device: torch.device | str) -> Batch:
    """Every column on ``device`` (columns already there are not copied)."""
    return {name: values.to(device, non_blocking=True) for name, values in batch.items()}


def nbytes(batch: Mapping[str, Tensor]) -> int:
    """Bytes held by the columns' elements.

    >>> nbytes({"feature": torch.zeros(3, 4), "label": torch.arange(3)})
    72
    """
    total = 0
    for values in batch.values():
        if values.is_nested:
            total += values.values().nbytes + offsets_of(values).nbytes
        else:
            total += values.nbytes
    return total


def jagged(rows: Iterable[Tensor | str | bytes | Sequence[int]]) -> Tensor:
    """Rows of differing length as one nested tensor (``torch.jagged``): tensors that agree in all but their first
    dimension, sequences of integers, or texts (stored as UTF-8 bytes; read back with `texts`).

    >>> jagged([[1, 2], [3]]).offsets().tolist()
    [0, 2, 3]
    """
    parts = [_as_row(row) for row in rows]
    if not parts:
        raise ValueError("rows is empty; expected at least one row")
    shapes = {(tuple(part.shape[1:]), part.dtype) for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"rows differ in more than their length: {sorted(map(str, shapes))}")
    lengths = torch.tensor([0] + [part.shape[0] for part in parts])
    return from_offsets(torch.cat(parts), lengths.cumsum(0))


def from_offsets(values: Tensor, offsets: Tensor) -> Tensor:
    """Nested tensor whose row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""
    return torch.nested.nested_tensor_from_jagged(values, offsets)


def offsets_of(rows: Tensor) -> Tensor:
    """Where the rows of a nested tensor start in its values, and where the last one ends; int64 (n + 1,)."""
    offsets: Tensor = rows.offsets()  # type: ignore[attr-defined]
    return offsets


def texts(rows: Tensor) -> list[str]:
    """Texts of a nested uint8 tensor made by `jagged`.

    >>> texts(jagged(["hi", "grüezi"]))
    ['hi', 'grüezi']
    """
    if not rows.is_nested or rows.dtype != torch.uint8:
        raise ValueError(f"rows is a {rows.dtype} tensor of shape {tuple(rows.shape)}; expected a nested uint8 tensor")
    return [bytes(row.tolist()).decode() for row in rows.unbind()]


def _as_row(row: Tensor | str | bytes | Sequence[int]) -> Tensor:
    if isinstance(row, str):
        row = row.encode()
    if isinstance(row, bytes):
        return torch.tensor(list(row), dtype=torch.uint8)
    if isinstance(row, Tensor):
        if row.dim() == 0:
            raise ValueError(f"a row is the scalar {row}; expected a tensor with a first dimension")
        return row
    values = torch.tensor(list(row))
    if values.numel() and values.is_floating_point():
        raise ValueError(f"a row is {row!r}; expected integers, a text or a tensor")
    return values.to(torch.int64)


def _take_column(values: Tensor, index: Tensor) -> Tensor:
    if not values.is_nested:
        return values.index_select(0, index.to(values.device))
    flat, offsets = values.values(), offsets_of(values)
    index = index.to(offsets.device)
    return from_offsets(*gather_jagged(flat, offsets[index], offsets[index + 1] - offsets[index]))


def gather_jagged(flat: Tensor, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Values and offsets of the rows ``flat[start:start + length]``, copied."""
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=lengths.device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    position = torch.arange(int(offsets[-1]), device=lengths.device) - offsets[rows] + starts[rows]
    return flat.index_select(0, position.to(flat.device)), offsets


def _concat_column(name: str, parts: list[Tensor]) -> Tensor:
    shapes = {(tuple(part.shape[1:]) if not part.is_nested else "jagged", part.dtype) for part in parts}
    if len(shapes) > 1:
        described = ", ".join(f"{dtype} rows of shape {shape}" for shape, dtype in sorted(shapes, key=str))
        raise ValueError(f"column {name!r} differs between the batches: {described}")
    if not parts[0].is_nested:
        return torch.cat(parts)
    lengths = torch.cat([offsets_of(part).diff() for part in parts])
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return from_offsets(torch.cat([part.values() for part in parts]), offsets)
