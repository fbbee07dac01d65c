"""Labels: the integer array a protocol is drawn from, one class per row of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..selection.balanced import groups_of

Integers: TypeAlias = "Tensor | np.ndarray[Any, Any] | Sequence[int]"
"""Labels or row numbers: a tensor, a numpy array or a sequence of integers, of shape (N,)."""


def as_integers(values: Integers, name: str) -> Tensor:
    """``values`` as an int64 tensor of shape (N,) on the CPU.

    Raises:
        ValueError: anything but integers in one dimension.

    >>> as_integers([2, 0], "labels")
    tensor([2, 0])
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else _as_array(values, name)
    if array.size == 0 and array.ndim == 1:
        return torch.empty(0, dtype=torch.int64)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}; expected integers of shape (N,)")
    return torch.from_numpy(array.astype(np.int64))


def rows_by_class(labels: Integers, name: str = "labels") -> dict[int, Tensor]:
    """Row numbers (int64, ascending) of every class, by ascending class.

    Raises:
        ValueError: no labels, or labels that are not integers of shape (N,).

    >>> rows_by_class([7, 3, 7])
    {3: tensor([1]), 7: tensor([0, 2])}
    """
    values = as_integers(labels, name)
    if not len(values):
        raise ValueError(f"{name} is empty; expected one class per row")
    return groups_of({name: values}, name)


def check_shots(labels: Integers, index: Integers, classes: Iterable[int], shot: int) -> None:
    """The exact-K audit: ``index`` holds ``shot`` distinct rows of each of ``classes`` and no other row.

    Raises:
        ValueError: naming the first class whose number of rows differs, a foreign class, or a repeated row.

    >>> check_shots([0, 0, 1, 1], index=[0, 2], classes=[0, 1], shot=1)
    >>> check_shots([0, 0, 1, 1], index=[0, 1, 2], classes=[0, 1], shot=1)
    Traceback (most recent call last):
    ValueError: class 0 has 2 rows; expected shot = 1
    """
    rows = as_integers(index, "index")
    repeated = len(rows) - len(torch.unique(rows))
    if repeated:
        raise ValueError(f"index has {repeated} repeated rows; expected distinct rows")
    drawn = as_integers(labels, "labels")[rows].tolist()
    counts = {int(name): 0 for name in classes}
    for name in drawn:
        if name not in counts:
            raise ValueError(f"index has a row of class {name}; expected only classes {sorted(counts)}")
        counts[name] += 1
    for name, count in counts.items():
        if count != shot:
            raise ValueError(f"class {name} has {count} rows; expected shot = {shot}")


def _as_array(values: Any, name: str) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} is a nested {type(values).__name__}; expected integers of shape (N,)") from None
