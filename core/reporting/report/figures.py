"""Figures of any ``results.json``, in the one shape that the report draws."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_SESSION = re.compile(r"after (?:session|task) (\d+)")
_STEPS = re.compile(r"(.*), (\d+) steps")
_GROUP = re.compile(r"(?:(.*), )?(base|novel|all)")
_METRICS = {"old after": "base", "new after": "novel", "all": "overall"}
"""Words of tables that mean the same."""
_SECONDS = ("seconds", "processor seconds")
_BYTES = {"memory (kB)": 1e3, "megabytes": 1e6}


@dataclass(frozen=True)
class Figures:
    """What there is to draw of a run; every entry is JSON-able.

    Attributes:
        final: ``method``, ``metric``, ``value``, ``ci``, ``seeds`` and ``published``.
        curves: ``method``, ``metric``, ``along``, ``at``, ``value``, ``ci`` and ``seeds``.
        costs: ``method``, ``seconds`` and ``bytes``.
    """

    final: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    costs: list[dict[str, Any]]

    @staticmethod
    def of(results: Mapping[str, Any]) -> Figures:
        """The figures in ``results.json``. Tables that tell a curve row by row, as ``er, 30 steps`` or ``after session
        2``, become curves; what is counted in seconds or bytes, costs.

        Raises:
            KeyError: it is something else.

        >>> row = {"name": "er, 30 steps", "metric": "new after", "ours": 81.0, "ci95": None, "seeds": 1}
        >>> Figures.of({"rows": [row]}).curves
        [{'method': 'er', 'metric': 'novel', 'along': 'steps', 'at': 30.0, 'value': 81.0, 'ci': None, 'seeds': 1}]
        """
        rows = list(_rows(results["rows"], bool(results.get("points"))))
        curves = [point for point, _ in rows if point is not None]
        final = [figure for point, figure in rows if point is None and figure is not None]
        for point in results.get("points", []):
            told = {"along": point["along"], "at": point["at"]}
            curves.append({"method": point["name"], "metric": point["metric"], **told, **_value(point)})
        curves += list(_against_seconds(curves, results["rows"]))
        known = {(figure["method"], figure["metric"]) for figure in final}
        final += [figure for figure in _last(curves) if (figure["method"], figure["metric"]) not in known]
        costs = [
            {"method": cost["name"], "seconds": cost["seconds"], "bytes": cost["bytes"]}
            for cost in results.get("costs", [])
        ]
        costs = costs or list(_costs(results["rows"]))
        taken = {name: results.get(name) or None for name in ("seconds", "memory_bytes")}
        if not costs and any(taken.values()):
            costs = [{"method": "", "seconds": taken["seconds"], "bytes": taken["memory_bytes"]}]
        return Figures(final, curves, costs)


def _value(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": row["ours"], "ci": row["ci95"], "seeds": row["seeds"]}


def _rows(rows: list[dict[str, Any]], told: bool) -> Iterator[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    """Each row as a point of a curve or as a figure; costs are neither, nor what points have ``told`` already."""
    for row in rows:
        name, metric = row["name"], _METRICS.get(row["metric"], row["metric"])
        if row["metric"] in _SECONDS or row["metric"] in _BYTES:
            continue
        if told and metric != "forgetting" and (_SESSION.fullmatch(name) or _GROUP.fullmatch(name)):
            continue
        name = "" if name == "test" else name
        if found := _SESSION.fullmatch(name):
            if metric == "forgetting":
                yield None, {"method": "", "metric": metric, **_value(row), "published": row.get("published")}
            else:
                yield {"method": "", "metric": metric, "along": "session", "at": float(found[1]), **_value(row)}, None
        elif found := _SESSION.fullmatch(metric):
            yield {"method": name, "metric": "overall", "along": "session", "at": float(found[1]), **_value(row)}, None
        elif found := _STEPS.fullmatch(name):
            yield {"method": found[1], "metric": metric, "along": "steps", "at": float(found[2]), **_value(row)}, None
        else:
            if (found := _GROUP.fullmatch(name)) and metric.startswith("AP"):
                name, metric = found[1] or "", f"{_METRICS.get(found[2], found[2])} {metric}"
            yield None, {"method": name, "metric": metric, **_value(row), "published": row.get("published")}


def _against_seconds(curves: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Curves along steps once more, along the seconds that these took, where rows tell them."""
    seconds = {}
    for row in rows:
        if row["metric"] == "processor seconds" and (found := _STEPS.fullmatch(row["name"])):
            seconds[found[1], float(found[2])] = row["ours"]
    for point in curves:
        if point["along"] == "steps" and (point["method"], point["at"]) in seconds:
            yield {**point, "along": "seconds", "at": seconds[point["method"], point["at"]]}


def _last(curves: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What was known after the last session."""
    ends: dict[tuple[str, str], dict[str, Any]] = {}
    for point in sorted(curves, key=lambda point: point["at"]):
        if point["along"] == "session":
            ends[point["method"], point["metric"]] = point
    for (method, metric), point in ends.items():
        yield {"method": method, "metric": metric, **{key: point[key] for key in ("value", "ci", "seeds")}} | {
            "published": None
        }


def _costs(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Seconds and bytes of each method, from rows that count them."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if _STEPS.fullmatch(row["name"]):
            continue
        cost = found.setdefault(row["name"], {"method": row["name"], "seconds": None, "bytes": None})
        if row["metric"] in _SECONDS:
            cost["seconds"] = row["ours"] if cost["seconds"] is None else cost["seconds"]
        elif row["metric"] in _BYTES:
            cost["bytes"] = row["ours"] * _BYTES[row["metric"]]
    yield from (cost for cost in found.values() if (cost["seconds"], cost["bytes"]) != (None, None))
