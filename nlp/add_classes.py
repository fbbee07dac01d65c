"""Add classes: a saved adapter learns new classes from a few examples, the old ones from its memory alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..arguments import Parser, run
from .adapter import TextAdapter
from .data import Shots


def add_classes(adapter: Path, data: Shots, encoder: str | None = None, out: Path | None = None) -> TextAdapter:
    """Teaches a saved adapter new classes from a few examples each, or more of those it has.

    Args:
        adapter: its folder.
        data: the examples.
        encoder: where the encoder is, if not where it was when the adapter was saved.
        out: folder for the new adapter; null: it takes the place of the old one.
    """
    shots = data.load()
    loaded = TextAdapter.load(adapter, encoder)
    before = len(loaded.classes)
    began = time.perf_counter()
    loaded.learn(shots)
    seconds = time.perf_counter() - began
    loaded.save(adapter if out is None else out)
    print(
        f"{len(loaded.classes) - before} new classes from {len(shots)} texts in {seconds:.2f} s, "
        f"{len(loaded.classes)} in all; the adapter is in {adapter if out is None else out}"
    )
    return loaded


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    parser = Parser(prog="memreplay nlp add-classes", description=(add_classes.__doc__ or "").partition("\n")[0])
    parser.add_function_arguments(add_classes, fail_untyped=True)
    run(add_classes, parser, sys.argv[1:] if args is None else args)


if __name__ == "__main__":
    main()
