"""Stores to and from `datasets.Dataset`, exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
import torch
from datasets import Dataset
from torch import Tensor

from ..core.batch import from_offsets, offsets_of, texts
from ..core.stores import Store

_ROWS_AT_A_TIME = 1000


def to_dataset(store: Store, text: Sequence[str] = ()) -> Any:
    """The rows of ``store`` as a `datasets.Dataset`: its columns, and ``id``, the number under which a row came.

    Values are those that the store gives back, bit for bit; what was stored in half precision, say, in the dtype it
    came in.

    Args:
        store: its rows, by slot.
        text: ragged columns of bytes that hold texts, which become strings.

    Raises:
        TypeError: a column of a dtype that Arrow does not have, such as bfloat16.

    >>> from memreplay import Ragged, Store
    >>> store = Store(10, columns={"text": Ragged()})
    >>> _ = store.add({"text": ["hello", "you"], "label": torch.tensor([0, 1])})
    >>> to_dataset(store, text=["text"])[1]
    {'text': 'you', 'label': 1, 'id': 1}
    """
    rows = store.rows()
    arrays = {}
    for name, values in rows.items():
        if name in text:
            arrays[name] = pa.array(texts(values))
        else:
            arrays[name] = _array(name, values.cpu())
    return Dataset(pa.table({**arrays, "id": _array("id", rows.ids)}))


def add_dataset(store: Store, dataset: Any, columns: Sequence[str] | None = None) -> int:
    """Offers the rows of a `datasets.Dataset` to ``store``, a thousand at a time; strings become the bytes of their
    text.

    Args:
        store: takes what its policy wants. Columns that are `Ragged` there may differ in length from row to row, and
            strings must.
        dataset: its rows.
        columns: which of its columns; None: all of them but ``id``.

    Returns:
        Rows that the store holds afterwards.

    Raises:
        ValueError: a column with missing values, or with rows that differ in length and is not ragged in the store.
        TypeError: a column that holds something else than numbers, truth values, texts and lists of them.

    >>> from memreplay import Ragged, Store
    >>> store = Store(10, columns={"text": Ragged()})
    >>> add_dataset(store, Dataset.from_dict({"text": ["hello", "you"], "label": [0, 1]}))
    2
    """
    names = [name for name in dataset.column_names if name != "id"] if columns is None else list(columns)
    stored = dataset.with_format("arrow")
    for start in range(0, len(dataset), _ROWS_AT_A_TIME):
        table = stored[start : start + _ROWS_AT_A_TIME]
        store.add({name: _values(name, table[name].combine_chunks()) for name in names})
    return len(store)


def _array(name: str, values: Tensor) -> Any:
    """The rows of a column as an Arrow array: lists of as many levels as a row has dimensions."""
    if values.dtype not in _KNOWN:
        raise TypeError(f"column {name!r} is {values.dtype}; expected one of {', '.join(map(str, _KNOWN))}")
    flat = values.values() if values.is_nested else values
    array = pa.array(flat.contiguous().view(-1).numpy())
    for width, rows in _levels(flat.shape):
        array = pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * width, array)
    if values.is_nested:
        array = pa.ListArray.from_arrays(offsets_of(values).numpy().astype(np.int32), array)
    return array


_KNOWN = (
    *(torch.float16, torch.float32, torch.float64),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
)


def _levels(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Width and number of the lists at each level, from within."""
    return [(shape[i], math.prod(shape[:i])) for i in range(len(shape) - 1, 0, -1)]


def _values(name: str, array: Any) -> Tensor | list[str]:
    """An Arrow array as a column: texts as they are; lists of one length as dense rows, of several as jagged ones."""
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return _whole(name, array).to_pylist()  # type: ignore[no-any-return]
    lengths = []
    while isinstance(array, (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray)):
        fixed = isinstance(array, pa.FixedSizeListArray)
        rows = len(_whole(name, array))
        lengths.append(np.full(rows, array.type.list_size) if fixed else np.diff(array.offsets.to_numpy()))
        array = array.flatten()
    flat = _whole(name, array).to_numpy(zero_copy_only=False)
    if flat.dtype.kind not in "biuf":
        raise TypeError(f"column {name!r} holds {array.type}; expected numbers, truth values, texts or lists of them")
    values = torch.from_numpy(flat.copy())
    widths = [sorted(set(found.tolist())) or [0] for found in lengths]
    if any(len(found) > 1 for found in widths[1:]):
        raise ValueError(f"column {name!r} has lists of differing length within a row: {widths[1:]}; expected one")
    inner = [found[0] for found in widths[1:]]
    if lengths and len(widths[0]) > 1:
        offsets = torch.from_numpy(np.concatenate([[0], lengths[0].cumsum()]))
        return from_offsets(values.view(-1, *inner), offsets)
    return values.view(len(lengths[0]), widths[0][0], *inner) if lengths else values


def _whole(name: str, array: Any) -> Any:
    if array.null_count:
        raise ValueError(f"column {name!r} has {array.null_count} missing values; expected none")
    return array
