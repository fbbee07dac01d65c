"""Add classes: a saved adapter learns new classes from a few boxes, the old ones from its memory alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..arguments import Parser, run
from .adapter import DetectionAdapter
from .data import DetectionData
from .shots import Shots
from .tuning import FineTuning


def add_classes(
    adapter: Path,
    data: DetectionData,
    classes: list[str] | None = None,
    shot: int | None = None,
    shots: Path | None = None,
    tuning: FineTuning = FineTuning(),  # noqa: B008 (immutable)
    seed: int = 0,
    out: Path | None = None,
) -> DetectionAdapter:
    """Teaches a saved adapter new classes from a few boxes of each.

    Args:
        adapter: its folder.
        data: images with boxes of the new classes.
        classes: which of its classes to learn; null: all.
        shot: boxes of each to learn from, drawn by the seed; null: all there are.
        shots: a file of `Shots` to take instead.
        tuning: how they are learned.
        seed: of the shots, the order of the data and the first weights.
        out: folder for the new adapter; null: it takes the place of the old one.
    """
    images = data.load()
    if classes is not None:
        images = images.of(classes)
    if shots is not None:
        images = Shots.load(shots).of(images)
    elif shot is not None:
        images = Shots.draw(images, images.classes, shot, seed).of(images)
    loaded = DetectionAdapter.load(adapter)
    before = len(loaded.classes)
    seconds = loaded.add_classes(images, tuning, seed=seed)
    loaded.save(adapter if out is None else out)
    print(
        f"{len(loaded.classes) - before} new classes from {sum(images.counts().values())} boxes in {seconds:.1f} s, "
        f"{len(loaded.classes)} in all; the adapter is in {adapter if out is None else out}"
    )
    return loaded


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    parser = Parser(prog="memreplay detection add-classes", description=(add_classes.__doc__ or "").partition("\n")[0])
    parser.add_function_arguments(add_classes, fail_untyped=True)
    run(add_classes, parser, sys.argv[1:] if args is None else args)


if __name__ == "__main__":
    main()
