"""Evaluate: the accuracy of a saved adapter on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import torch

from ..arguments import command, near_miss
from ..core.reporting import Results
from ..core.reporting.cases import save_cases
from .adapter import ImageAdapter
from .data import Data, ImageSet


def evaluate(adapter: Path, data: Data, out: Path | None = None) -> Results:
    """Measures a saved adapter on the test images of ``data``, whose size becomes that of the adapter.

    Args:
        adapter: its folder.
        data: where the images come from; of an image folder that is all for testing, ``test_fraction`` is 1.
        out: folder for ``results.json``, and for predictions with their evidence; null: nothing is written.
    """
    loaded = ImageAdapter.load(adapter)
    fitting = {"size": loaded.encoder.size, "channels": loaded.encoder.channels}
    if is_dataclass(data):
        given = {field.name for field in fields(data)}
        data = replace(data, **{name: value for name, value in fitting.items() if name in given})
    results = Results("vision_cls/evaluate", {"adapter": str(adapter)})
    results.memory_bytes = loaded.memory.nbytes
    test = data.load("test")
    judge(results, loaded, test)
    if out is not None:
        results.save(out)
        save_cases(loaded.explained(test), out)
    results.print()
    return results


def judge(results: Results, adapter: ImageAdapter, test: ImageSet) -> None:
    """Adds to ``results`` the ``accuracy`` of ``adapter`` over all images and over those of every class, in percent.

    Raises:
        ValueError: a class that the adapter does not have.
    """
    place = {name: number for number, name in enumerate(adapter.classes)}
    for name in set(test.names) - place.keys():
        near = near_miss(name, place)
        raise ValueError(
            f"data has the class {name!r}, which is none of the {len(place)} classes of the adapter"
            + (f"; did you mean {near!r}?" if near else "")
        )
    truth = torch.tensor([place[name] for name in test.names])
    right = adapter.probabilities(adapter.encoder.embed(test.images)).argmax(1) == truth
    results.add("test", "accuracy", [100 * float(right.double().mean())])
    for name, number in place.items():
        of_class = truth == number
        if bool(of_class.any()):
            results.add(name, "accuracy", [100 * float(right[of_class].double().mean())])


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    command(evaluate, "memreplay vision evaluate", args)


if __name__ == "__main__":
    main()
