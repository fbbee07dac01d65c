"""Folder: where a recipe finds its data, weights and lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folder:
    """The folder with the data of a recipe.

    Args:
        root: its path.
    """

    root: Path

    @staticmethod
    def holding(path: str, data: Path | None, expected: str) -> Folder:
        """The folder ``data``, after checking that ``path`` is in it.

        Args:
            expected: what is in it, as the error tells.

        Raises:
            ValueError: ``path`` is not there, or ``data`` is None.
        """
        if data is None or not Path(data, path).exists():
            raise ValueError(f"data is {str(data)!r}; expected a folder with {expected}")
        return Folder(Path(data))

    def first(self, *names: str) -> Path | None:
        """The first of these files or folders that is there."""
        return next((path for name in names if (path := self.root / name).exists()), None)
