import json
from pathlib import Path
from typing import Any

import pytest

from memreplay.core.reporting import Results
from memreplay.core.reporting.report.figures import Figures

ROOT = Path(__file__).parents[4]


def row(name: str, metric: str, ours: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "metric": metric, "ours": ours, "ci95": None, "seeds": 1, "published": None, **more}


def told(entries: list[dict[str, Any]], *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(entry[key] for key in keys) for entry in entries]


def test_tables_that_tell_a_curve_row_by_row_become_curves() -> None:
    rows = [
        row("after session 0", "base", 90.0),
        row("after session 1", "base", 80.0),
        row("after session 1", "forgetting", 10.0),
        row("er", "after task 2", 40.0),
        row("1-shot, recall on, 30 steps", "old after", 70.0),
        row("1-shot, recall on, 30 steps", "processor seconds", 0.5),
    ]
    found = Figures.of({"rows": rows})
    assert told(found.curves, "method", "metric", "along", "at", "value") == [
        ("", "base", "session", 0, 90.0),
        ("", "base", "session", 1, 80.0),
        ("er", "overall", "session", 2, 40.0),
        ("1-shot, recall on", "base", "steps", 30, 70.0),
        ("1-shot, recall on", "base", "seconds", 0.5, 70.0),
    ]
    # what was known at the end
    assert told(found.final, "method", "metric", "value") == [
        ("", "forgetting", 10.0),
        ("", "base", 80.0),
        ("er", "overall", 40.0),
    ]


def test_points_take_the_place_of_rows_that_say_the_same() -> None:
    results = Results("toys/train")
    results.add("after session 0", "base", [90.0])
    results.add_point("", "base", "session", 0, [90.0])
    results.add("all classes, novel", "AP50", [30.0])
    results.add_point("", "novel AP50", "session", 0, [30.0])
    found = Figures.of(results.as_dict())
    assert told(found.curves, "metric", "value") == [("base", 90.0), ("novel AP50", 30.0)]
    assert told(found.final, "method", "metric", "value") == [("", "base", 90.0), ("", "novel AP50", 30.0)]


def test_what_is_counted_in_seconds_or_bytes_is_a_cost() -> None:
    rows = [row("er", "accuracy", 80.0), row("er", "seconds", 3.0), row("er", "memory (kB)", 12.0)]
    found = Figures.of({"rows": rows})
    assert found.costs == [{"method": "er", "seconds": 3.0, "bytes": 12000.0}]
    assert told(found.final, "metric") == [("accuracy",)]
    assert Figures.of({"rows": rows[:1], "seconds": 9.0, "memory_bytes": 7}).costs == [
        {"method": "", "seconds": 9.0, "bytes": 7}
    ]


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "results").glob("*.json")), ids=lambda file: str(file.stem))
def test_every_committed_table_can_be_drawn(file: Path) -> None:
    saved = json.loads(file.read_text())
    found = Figures.of(saved)
    drawn = len(found.final) + len(found.curves)
    assert drawn
    values = [entry["value"] for entry in (*found.final, *found.curves)]
    assert {row["ours"] for row in saved["rows"] if "accuracy" in row["metric"]} <= set(values)
