"""Forget: classes leave a saved adapter, with their regions and their part of the predictor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..arguments import command
from ..core.reporting.cases import drop_cases
from .adapter import DetectionAdapter


def forget(adapter: Path, label: str | list[str]) -> DetectionAdapter:
    """Removes classes from a saved adapter: from its memory, its predictor and its manifest.

    Args:
        adapter: its folder, which is written anew.
        label: the name of the class, or several.
    """
    loaded = DetectionAdapter.load(adapter)
    names = [label] if isinstance(label, str) else label
    try:
        rows = sum(loaded.forget(name) for name in names)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    loaded.save(adapter)
    drop_cases(adapter)
    print(f"forgot {', '.join(names)} and {rows} regions of the memory; {len(loaded.classes)} classes are left")
    return loaded


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    command(forget, "memreplay detection forget", args)


if __name__ == "__main__":
    main()
