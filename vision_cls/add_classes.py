"""Add classes: a saved adapter learns new classes from a few images, the old ones from its memory alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..arguments import command
from ..teaching import teach
from .adapter import ImageAdapter
from .data import image_folder


def add_classes(
    adapter: Path, images: Path, on_corrupt: Literal["error", "skip"] = "error", out: Path | None = None
) -> ImageAdapter:
    """Teaches a saved adapter new classes from a few images each, or more of those it has.

    Args:
        adapter: its folder.
        images: a folder with a folder of images per class; all of them are learned.
        on_corrupt: whether a file that cannot be decoded is an error, or is left out with a warning.
        out: folder for the new adapter; null: it takes the place of the old one.
    """
    loaded = ImageAdapter.load(adapter)
    encoder = loaded.encoder
    shots = image_folder(images, size=encoder.size, channels=encoder.channels, test_fraction=0, on_corrupt=on_corrupt)
    teach(loaded, lambda: loaded.learn(shots), f"{len(shots)} images", out or adapter)
    return loaded


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    command(add_classes, "memreplay vision add-classes", args)


if __name__ == "__main__":
    main()
