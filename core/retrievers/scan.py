"""What `_scan.c` does in one pass, where a C compiler has built it; without it torch does the same in several."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import torch
from torch import Tensor

from .. import loops

compiled: Any = loops.compiled(str(__package__), "_scan")

Comparison = Literal["dot", "cosine", "euclidean"]
COMPARISONS: tuple[Comparison, ...] = ("dot", "cosine", "euclidean")


def scans(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether rows of this dtype on this device can be given to `compare` and `Best`."""
    return compiled is not None and dtype is torch.float32 and device.type == "cpu"


def shortlists() -> bool:
    """Whether `Best.search` can be called, where `scans` says so."""
    return compiled is not None and bool(compiled.shortlists)


def compare(rows: Tensor, vector: Tensor, how: Comparison, out: Tensor, scale: Tensor | None = None) -> None:
    """Compares every row of ``rows`` (n, D) with ``vector`` (D,), into ``out`` (n,); each is read once.

    ``how`` is ``"dot"``; ``"cosine"``, times the length of the vector and 0 for a row that is 0; or ``"euclidean"``,
    which here is the square of the distance, negated.

    With ``"cosine"`` the inverse lengths of the rows go to ``scale`` (n,) if given, NaN where a squared length or
    its inverse leaves the range of float32: elsewhere inner products times these are the cosines to the last bit.
    """
    given = None if scale is None else scale.numpy()
    compiled.compare(rows.contiguous().numpy(), vector.contiguous().numpy(), out.numpy(), COMPARISONS.index(how), given)


def in_threads(work: Callable[[slice], None], parts: list[slice]) -> None:
    """Calls ``work`` with every part, on as many threads as torch may use."""
    threads = min(torch.get_num_threads(), len(parts))
    if threads <= 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, part) for part in parts]:
            done.result()
