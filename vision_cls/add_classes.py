"""Add classes: a saved adapter learns new classes from a few images, the old ones from its memory alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..arguments import Parser, run
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
    before = len(loaded.classes)
    began = time.perf_counter()
    loaded.learn(shots)
    seconds = time.perf_counter() - began
    loaded.save(adapter if out is None else out)
    print(
        f"{len(loaded.classes) - before} new classes from {len(shots)} images in {seconds:.2f} s, "
        f"{len(loaded.classes)} in all; the adapter is in {adapter if out is None else out}"
    )
    return loaded


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    parser = Parser(prog="memreplay vision add-classes", description=(add_classes.__doc__ or "").partition("\n")[0])
    parser.add_function_arguments(add_classes, fail_untyped=True)
    run(add_classes, parser, sys.argv[1:] if args is None else args)


if __name__ == "__main__":
    main()
