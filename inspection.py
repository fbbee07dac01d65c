"""Inspection: the page that shows what there is in a saved memory."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from .core.reporting.holdings import holdings

_LINES = 30
"""Classes shown at most."""


ADAPTERS = {
    "memreplay image adapter": ("vision_cls", "ImageAdapter"),
    "memreplay text adapter": ("nlp", "TextAdapter"),
}
"""The saves whose features can be computed anew, with what loads them."""


def inspection(memory: Path, as_json: bool, model: Path | None = None) -> None:
    """Prints what `memreplay.core.reporting.holdings.holdings` finds, as a page or as JSON.

    Args:
        memory: the folder of the save.
        as_json: whether as JSON.
        model: an adapter, whose encoder's features stored ones are compared with.

    Raises:
        FileNotFoundError: there is no save.
        ValueError: it is damaged, or cannot be compared.
    """
    found = holdings(memory)
    if model is not None:
        found["staleness"] = _staleness(memory, found, model)
    if as_json:
        print(json.dumps(found, indent=1, allow_nan=False))
        return
    if found["kind"] not in ("Store", "GaussianStore"):
        print(f"{found['kind']} in {found['folder']}\n")
    for place, told in found["memories"].items():
        _print(told, place.rstrip("."))
    if model is not None:
        rows = [(name, *map(_number, drift.values())) for name, drift in found["staleness"].items()][: _LINES + 1]
        print(f"cosines of stored features and those of the model in {model}")
        _table(("class, the most stale first", "rows", "mean", "median", "least"), rows)


def _staleness(memory: Path, found: Mapping[str, Any], model: Path) -> dict[str, dict[str, Any]]:
    """Of all rows and of each class: how many, mean, median and least cosine."""
    if found["kind"] not in ADAPTERS:
        raise ValueError(
            f"memory is {str(memory)!r}, a {found['kind']}, of which no model is known; expected an adapter of images "
            "or texts. In Python: memreplay.staleness(store.rows(), encoder)"
        )
    package, name = ADAPTERS[found["kind"]]
    adapter = getattr(import_module(f"{__package__}.{package}"), name)
    loaded = adapter.load(memory)
    encoder = None if model.resolve() == memory.resolve() else adapter.load(model).encoder
    stale = loaded.staleness(encoder)
    classes = {loaded.names[number]: asdict(drift) for number, drift in stale.of_class.items()}
    return {"all": asdict(stale.of_all), **classes}


def _print(told: Mapping[str, Any], place: str) -> None:
    held = f"{told['rows']:,} of {told['capacity']:,} rows" if "rows" in told else f"{len(told['classes']):,} classes"
    at = f" {place}" if place else ""
    print(f"{told['kind']}{at}: {held}, {told['seen']:,} seen, {told['bytes']:,} bytes")
    _say(*("keeps by", told["keep"]) if "keep" in told else ("covariance", told["covariance"]))
    _say("encoder", told["fingerprint"] or "not named")
    if told.get("skipped"):
        _say("skipped", f"{told['skipped']:,} rows that were addressed after they had left")
    for entry in told["forgotten"]:
        where = " and ".join(f"{name} {', '.join(map(str, values))}" for name, values in entry["where"].items())
        _say("forgotten", f"{where}: {entry['rows']:,} rows, after {entry['seen']:,} had been seen")
    if columns := told.get("columns"):
        rows = [
            (name, column["kind"], f"{_shape(column['shape'])} {column['dtype']}", f"{column['bytes']:,}")
            for name, column in columns.items()
        ]
        _table(("column", "stored as", "a row", "bytes"), [*rows, ("ids, keys, ranks", "", "", f"{told['books']:,}")])
    if told["quantiles"]:
        rows = [(name, *map(_number, values)) for name, values in told["quantiles"].items()]
        _table(("", "least", "25 %", "median", "75 %", "greatest"), rows)
    classes = sorted(told["classes"].items(), key=lambda item: -item[1]["rows"])
    if classes:
        headings = list(classes[0][1])
        rows = [(name, *(_number(entry[heading]) for heading in headings)) for name, entry in classes[:_LINES]]
        _table(("class", *({"age": "age, median", "recalled": "recalled, mean"}.get(h, h) for h in headings)), rows)
        if len(classes) > _LINES:
            print(f"and {len(classes) - _LINES} more classes, which --json shows")
    if turnover := told.get("turnover"):
        rows = [(name, *map(_number, counts.values())) for name, counts in list(turnover.items())[:_LINES]]
        _table(("class", *next(iter(turnover.values()))), rows)
    if recalled := told["recalled"]:
        print()
        for name, draw in recalled["draws"].items():
            times = f"{draw['times']:,} times, {draw['rows']:,} rows, {draw['distinct']:,} different"
            _say(f"draw {name!r}", f"{times}, by {draw['selector']}")
        if "never" in recalled:
            _say("never", f"{recalled['never']:,} of the rows held were never recalled")
    print()


def _say(what: str, told: str) -> None:
    print(textwrap.fill(f"{what:<12} {told}", 80, subsequent_indent=" " * 13))


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table that fits 80 columns; all but the first column are numbers, or short."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    print()
    Console(width=80, highlight=False, markup=False).print(table)


def _shape(shape: list[int | str]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"
