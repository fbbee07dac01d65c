"""Forget: classes leave a saved adapter, with all that was learned of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..arguments import Parser, run
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
    return loaded


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    parser = Parser(prog="memreplay vision forget", description=(forget.__doc__ or "").partition("\n")[0])
    parser.add_function_arguments(forget, fail_untyped=True)
    run(forget, parser, sys.argv[1:] if args is None else args)


if __name__ == "__main__":
    main()
