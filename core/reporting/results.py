"""Results: the figures of a run beside the published ones, as ``results.json`` and as a table."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..protocols.intervals import mean_interval

_PACKAGES = ("memreplay", "torch", "torchvision", "accelerate", "numpy")


@dataclass(frozen=True)
class Row:
    """One figure: a mean over seeds with its 95 % interval, beside what was published.

    Attributes:
        name: of the method or setting.
        metric: what was measured.
        ours: mean over the seeds.
        ci95: half the width of the interval (Student t); None for a single seed.
        seeds: how many.
        published: the figure to compare with, or None.
    """

    name: str
    metric: str
    ours: float
    ci95: float | None
    seeds: int
    published: float | None = None


@dataclass(frozen=True)
class Point:
    """One figure of a curve.

    Attributes:
        name: of the method or setting.
        metric: what was measured.
        along: what the curve goes along: ``"session"``, ``"steps"`` or ``"seconds"``.
        at: where.
        ours: mean over the seeds.
        ci95: half the width of the interval (Student t); None for a single seed.
        seeds: how many.
    """

    name: str
    metric: str
    along: str
    at: float
    ours: float
    ci95: float | None
    seeds: int


@dataclass(frozen=True)
class Cost:
    """What a method took.

    Attributes:
        name: of the method or setting.
        seconds: spent learning, mean over the seeds.
        bytes: held in memory, mean over the seeds.
    """

    name: str
    seconds: float | None = None
    bytes: float | None = None


class Results:
    """What a recipe found.

    Args:
        recipe: its name, as in ``memreplay reproduce``.
        config: what was run, JSON-able.

    >>> results = Results("demo")
    >>> results.add("ER", "accuracy", [80.0, 81.0, 82.0], published=80.43)
    >>> results.rows[0].ours
    81.0
    """

    def __init__(self, recipe: str, config: Mapping[str, Any] | None = None) -> None:
        self.recipe = recipe
        self.config = dict(config or {})
        self.rows: list[Row] = []
        self.points: list[Point] = []
        self.costs: list[Cost] = []
        self.memory_bytes = 0
        self._began = time.perf_counter()

    def add(self, name: str, metric: str, values: Sequence[float], published: float | None = None) -> None:
        """Adds the figure of ``name``, one value per seed."""
        interval = mean_interval(values)
        ci95 = None if math.isnan(interval.half_width) else interval.half_width
        self.rows.append(Row(name, metric, interval.mean, ci95, interval.n, published))

    def add_point(self, name: str, metric: str, along: str, at: float, values: Sequence[float]) -> None:
        """Adds a point to a curve of ``name``, one value per seed; `report` draws it."""
        interval = mean_interval(values)
        ci95 = None if math.isnan(interval.half_width) else interval.half_width
        self.points.append(Point(name, metric, along, at, interval.mean, ci95, interval.n))

    def add_cost(self, name: str, seconds: Sequence[float] = (), bytes: Sequence[float] = ()) -> None:
        """Adds what ``name`` took, one value per seed of each that is known."""
        means = (sum(values) / len(values) if len(values) else None for values in (seconds, bytes))
        self.costs.append(Cost(name, *means))

    def as_dict(self) -> dict[str, Any]:
        """What is written to ``results.json``."""
        return {
            "recipe": self.recipe,
            "rows": [vars(row) for row in self.rows],
            "points": [vars(point) for point in self.points],
            "costs": [vars(cost) for cost in self.costs],
            "seconds": round(time.perf_counter() - self._began, 1),
            "memory_bytes": self.memory_bytes,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({platform.machine()})",
            "versions": versions(),
            "config": self.config,
        }

    def save(self, folder: str | Path) -> Path:
        """Writes ``results.json``, and for people ``results.md``, into ``folder``; returns the path of the first."""
        path = Path(folder, "results.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, text in ((path.with_suffix(".md"), self.markdown()), (path, json.dumps(self.as_dict(), indent=1))):
            with replacing(file) as draft:
                draft.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        return path

    def print(self, decimals: int = 2) -> None:
        """Prints a line per name and a column per metric; with published figures, those and the difference as well."""
        from rich.console import Console
        from rich.table import Table

        headings, lines = self._table(decimals)
        table = Table("", title=self.recipe, title_justify="left")
        for heading in headings[1:]:
            table.add_column(heading, justify="right")
        for line in lines:
            table.add_row(*line)
        Console().print(table)

    def markdown(self, decimals: int = 2) -> str:
        """The table that `print` prints, in Markdown, with what it took to make it.

        >>> results = Results("demo")
        >>> results.add("ER", "accuracy", [80.0, 82.0])
        >>> print(results.markdown().splitlines()[4])
        | ER | 81.00 ± 12.71 |
        """
        headings, lines = self._table(decimals)
        rule = ["---", *("---:" for _ in headings[1:])]
        rows = "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *lines))
        seeds = sorted({row.seeds for row in self.rows})
        told = self.as_dict()
        return (
            f"# {self.recipe}\n\n{rows}\n\nMean ± half the 95 % interval (Student t) over "
            f"{' or '.join(map(str, seeds)) or 'no'} seeds; memory {self.memory_bytes:,} bytes; "
            f"{told['seconds']:,.0f} s on {told['device']}; "
            f"{', '.join(f'{name} {version}' for name, version in told['versions'].items())}.\n"
        )

    def _table(self, decimals: int) -> tuple[list[str], list[list[str]]]:
        """Headings, and the cells of each line."""
        metrics = list(dict.fromkeys(row.metric for row in self.rows))
        compared = {row.metric for row in self.rows if row.published is not None}
        headings = [""]
        for metric in metrics:
            headings += (metric, "published", "difference") if metric in compared else (metric,)
        differ = len({row.seeds for row in self.rows}) > 1
        headings += ["seeds"] if differ else []
        lines = []
        for name in dict.fromkeys(row.name for row in self.rows):
            cells = [name]
            for metric in metrics:
                row = next((row for row in self.rows if (row.name, row.metric) == (name, metric)), None)
                cells.append("" if row is None else _with_interval(row, decimals))
                if metric in compared:
                    published = None if row is None else row.published
                    cells.append("" if published is None else f"{published:.{decimals}f}")
                    cells.append("" if row is None or published is None else f"{row.ours - published:+.{decimals}f}")
            if differ:
                cells.append(str(max(row.seeds for row in self.rows if row.name == name)))
            lines.append(cells)
        return headings, lines


def note(folder: str | Path, stage: str, values: Mapping[str, float]) -> None:
    """Writes what was measured after a stage of a run to its ``metrics.jsonl``, one line per stage; a stage that is
    done again has its line written anew.
    """
    path = Path(folder, "metrics.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
    lines = [line for line in lines if line.get("stage") != stage]
    told = {name: value for name, value in values.items() if math.isfinite(value)}
    with replacing(path) as draft:
        text = "".join(json.dumps(line) + "\n" for line in (*lines, {"stage": stage, **told}))
        draft.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft beside ``path`` that takes its place once it is written."""
    draft = path.with_name(f"{path.name}.draft")
    yield draft
    os.replace(draft, path)


def _with_interval(row: Row, decimals: int) -> str:
    """A figure that is the same for all seeds has no interval."""
    equal = row.ci95 is None or row.ci95 < 1e-9 * abs(row.ours) or row.ci95 == 0
    return f"{row.ours:.{decimals}f}" + ("" if equal else f" ± {row.ci95:.{decimals}f}")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
