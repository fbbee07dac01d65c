"""Add classes: a saved adapter learns new classes from a few examples, the old ones from its memory alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..arguments import command
from ..teaching import teach
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
    teach(loaded, lambda: loaded.learn(shots), f"{len(shots)} texts", out or adapter)
    return loaded


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    command(add_classes, "memreplay nlp add-classes", args)


if __name__ == "__main__":
    main()
