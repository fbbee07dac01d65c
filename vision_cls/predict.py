"""Predict: labels for image files and folders, as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from ..arguments import at_least, command
from .adapter import ImageAdapter
from .data.decoding import SUFFIXES


def predict(
    adapter: Path, input: Path | list[Path], memories: int = 3, batch_size: int = 64, out: Path | None = None
) -> None:
    """Labels images, one JSON object per image: file, label, probability and the memories that support it.

    The label is null for an image that is out of scope, and for a file that cannot be read; ``error`` then says why.

    Args:
        adapter: its folder.
        input: an image, a folder of images (those in its sub-folders are meant too), or several of these.
        memories: how many to tell of each image.
        batch_size: images at a time.
        out: a file to write to; null: standard output.
    """
    at_least("batch_size", batch_size, 1)
    at_least("memories", memories, 0)
    files = files_in([input] if isinstance(input, Path) else input)
    loaded = ImageAdapter.load(adapter)
    unread = 0
    with ExitStack() as opened:
        target = sys.stdout if out is None else opened.enter_context(out.open("w", encoding="utf-8"))
        for start in range(0, len(files), batch_size):
            for prediction in loaded.predict(files[start : start + batch_size], memories):
                unread += prediction.error is not None
                print(json.dumps(asdict(prediction), ensure_ascii=False), file=target)
            target.flush()
    if unread:
        print(f"{unread} of {len(files)} files could not be read; their error says why", file=sys.stderr)


def files_in(places: Sequence[Path]) -> list[Path]:
    """The files among ``places``, and the images in the folders among them, sorted.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: a folder without images.
    """
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"input is {str(place)!r}; expected an image or a folder of images")
        if place.is_dir():
            images = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
            if not images:
                raise ValueError(f"input is {str(place)!r}, a folder without images; expected at least one")
            found += images
        else:
            found.append(place)
    return found


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    command(predict, "memreplay vision predict", args)


if __name__ == "__main__":
    main()
