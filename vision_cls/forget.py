"""Forget: classes leave a saved adapter, with all that was learned of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..arguments import command
from ..core.reporting.cases import drop_cases
from .adapter import ImageAdapter


def forget(adapter: Path, label: str | list[str]) -> ImageAdapter:
    """Removes classes from a saved adapter: from its memory, its head and its manifest.

    Args:
        adapter: its folder, which is written anew.
        label: the name of the class, or several.
    """
    loaded = ImageAdapter.load(adapter)
    print(loaded.forget_all([label] if isinstance(label, str) else label))
    loaded.save(adapter)
    drop_cases(adapter)
    return loaded


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    command(forget, "memreplay vision forget", args)


if __name__ == "__main__":
    main()
