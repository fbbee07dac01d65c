"""Add classes: a saved adapter learns new classes from a few boxes, the old ones from its memory alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..arguments import command
from ..teaching import teach
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
    boxes = sum(images.counts().values())
    teach(loaded, lambda: loaded.add_classes(images, tuning, seed=seed), f"{boxes} boxes", out or adapter)
    return loaded


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    command(add_classes, "memreplay detection add-classes", args)


if __name__ == "__main__":
    main()
