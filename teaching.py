"""Teaching: how every domain's ``add-classes`` teaches a saved adapter, saves it anew and says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Pupil(Protocol):
    """An adapter, as far as it is taught."""

    @property
    def classes(self) -> list[str]:
        """Names of its classes."""
        ...

    def save(self, folder: Any) -> None:
        """Writes it to ``folder``."""
        ...


def teach(adapter: Pupil, learn: Callable[[], object], given: str, folder: Path) -> None:
    """Calls ``learn``, which teaches ``adapter`` classes, and saves it to ``folder``; prints how many and how long.

    Args:
        adapter: as it was loaded.
        learn: teaches it.
        given: from what, such as ``"25 images"``.
        folder: where it is saved.
    """
    before = len(adapter.classes)
    began = time.perf_counter()
    learn()
    seconds = time.perf_counter() - began
    adapter.save(folder)
    print(
        f"{len(adapter.classes) - before} new classes from {given} in {seconds:.2f} s, "
        f"{len(adapter.classes)} in all; the adapter is in {folder}"
    )
