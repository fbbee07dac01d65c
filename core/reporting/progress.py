"""Progress: tasks in other processes, waited for with a bar that tells the time left."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, as_completed
from typing import TypeVar

T = TypeVar("T")


def waited(tasks: Sequence[Future[T]], what: str) -> list[T]:
    """The results of tasks, in their order; on a terminal with a progress bar.

    Args:
        tasks: submitted to a pool.
        what: they do, for people.

    Raises:
        Exception: whatever a task raises.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor() as pool:
    ...     waited([pool.submit(abs, -3), pool.submit(abs, 2)], "counting")
    [3, 2]
    """
    from tqdm import tqdm

    for task in tqdm(as_completed(tasks), what, total=len(tasks), disable=None, leave=False):
        task.result()
    return [task.result() for task in tasks]
