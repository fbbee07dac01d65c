"""Forget: classes leave a saved adapter, with their regions and their part of the predictor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..arguments import Parser, run
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
    print(f"forgot {', '.join(names)} and {rows} regions of the memory; {len(loaded.classes)} classes are left")
    return loaded


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    parser = Parser(prog="memreplay detection forget", description=(forget.__doc__ or "").partition("\n")[0])
    parser.add_function_arguments(forget, fail_untyped=True)
    run(forget, parser, sys.argv[1:] if args is None else args)


if __name__ == "__main__":
    main()
