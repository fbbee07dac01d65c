"""Evaluate: the average precision of a saved adapter on images with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..arguments import command
from ..core.protocols.metrics import harmonic_mean
from ..core.reporting import Results
from ..core.reporting.cases import save_cases
from .adapter import DetectionAdapter
from .data import DetectionData, DetectionSet
from .detections import Detections
from .evaluation import METRICS, Precision, detect, judge, judge_voc


def evaluate(adapter: Path, data: DetectionData, voc: bool = False, out: Path | None = None) -> Results:
    """Measures a saved adapter on images with boxes: AP, AP50 and AP75 of every class, of base, novel and all.

    Args:
        adapter: its folder.
        data: images with boxes of classes that the adapter has; others are not looked at.
        voc: VOC's own AP50 as well, see `judge_voc`.
        out: folder for ``results.json``, and for detections with their evidence; null: nothing is written.
    """
    loaded = DetectionAdapter.load(adapter)
    results = Results("detection/evaluate", {"adapter": str(adapter)})
    results.memory_bytes = 0 if loaded.memory is None else loaded.memory.nbytes
    judged = data.load()
    images, detected = found_on(loaded, judged)
    found = judge(images, detected)
    for name, of_class in found.by_class.items():
        for metric, value in of_class.items():
            results.add(name, metric, [value])
    add_groups(results, "", found, loaded.base)
    if voc:
        own = judge_voc(images, detected)
        for name, value in {**{n: v["AP50"] for n, v in own.by_class.items()}, **own.groups(loaded.base)}.items():
            if value == value:
                results.add(name, "VOC AP50", [value])
    if out is not None:
        results.save(out)
        save_cases(loaded.explained(judged), out)
    results.print(decimals=1)
    return results


def found_on(adapter: DetectionAdapter, data: DetectionSet) -> tuple[DetectionSet, list[Detections]]:
    """The images of ``data`` with the classes that the adapter has too, and what it finds of them there.

    Raises:
        ValueError: there is no such class.
    """
    shared = [name for name in adapter.classes if name in data.classes]
    if not shared:
        raise ValueError(
            f"data has the classes {', '.join(data.classes)}; the adapter has {', '.join(adapter.classes)}"
        )
    places = {number: shared.index(name) for number, name in adapter.names.items() if name in shared}
    images = data.of(shared, empty=True)
    return images, [found.numbered(places) for found in detect(adapter.detector, images)]


def judge_groups(
    results: Results, name: str, adapter: DetectionAdapter, data: DetectionSet, session: int
) -> dict[str, float]:
    """Adds AP, AP50 and AP75 of base, novel and all classes to ``results``, under names that begin with ``name``, and
    AP50 after a ``session``, which it returns, to its curves."""
    found = judge(*found_on(adapter, data))
    add_groups(results, f"{name}, ", found, adapter.base)
    groups = found.groups(adapter.base)
    told = {"base": groups["base"], "novel": groups["novel"], "overall": groups["all"]}
    told["harmonic"] = harmonic_mean(groups["base"], groups["novel"])
    for group, value in told.items():
        if value == value:
            results.add_point("", f"{group} AP50", "session", session, [value])
    return {f"{group} AP50": value for group, value in told.items()}


def add_groups(results: Results, prefix: str, found: Precision, base: Sequence[str]) -> None:
    """Adds the means over base, novel and all classes, those that there are."""
    for metric in METRICS:
        for group, value in found.groups(base, metric).items():
            if value == value:
                results.add(f"{prefix}{group}", metric, [value])


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    command(evaluate, "memreplay detection evaluate", args)


if __name__ == "__main__":
    main()
