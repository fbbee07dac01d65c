"""Page: the report as one HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from ..results import replacing
from .run import Run, read_runs

HEADLINES = ("harmonic", "accuracy", "overall", "harmonic AP50", "overall AP50", "average", "last")
"""What a run is known by, the first of these that it has; otherwise its first metric."""
_HERE = Path(__file__).parent


def write_report(runs: Sequence[str | Path], out: str | Path = "report.html", title: str = "") -> Path:
    """Writes a page about runs, beside one another: one file, that opens from disk and asks no network for anything.

    Args:
        runs: folders of runs, adapters or memories, and ``results.json`` files by whatever name, of any domain.
        out: the file to write.
        title: of the page; by default the names of the runs.

    Raises:
        FileNotFoundError: one of the runs is not there.
        ValueError: no runs, or one that has nothing to report.
        ModuleNotFoundError: the extra ``report`` is not installed.
    """
    if not runs:
        raise ValueError("runs is empty; expected at least one folder of a run, or results.json")
    path = Path(out)
    text = page(read_runs([Path(run) for run in runs]), title)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OSError(f"out is {str(path)!r}, which cannot be written: {error.strerror}") from error
    return path


def page(runs: Sequence[Run], title: str = "") -> str:
    """The HTML about ``runs``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"bytes": in_bytes, "duration": duration, "figure": figure, "anchor": anchor}
    scripts = [_charts(), (_HERE / "page.js").read_text(encoding="utf-8")]
    # no script but these two ever runs, whatever a label or a text says
    allowed = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return environment.get_template("page.html").render(
        title=title or ", ".join(run.name for run in runs),
        runs=runs,
        cards=[card(run) for run in runs],
        data=drawn(runs),
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        allowed=allowed,
        date=datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        dumped=lambda value: json.dumps(value, indent=1, ensure_ascii=False),
    )


@cache
def _charts() -> str:
    """The libraries that draw, Vega and Vega-Lite, as one script that sets ``vegaEmbed``."""
    import vl_convert  # type: ignore[import-untyped,unused-ignore]

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", r"<\/script")


def drawn(runs: Sequence[Run]) -> dict[str, Any]:
    """What the charts are made of, JSON-able; every entry names its run."""
    found: dict[str, Any] = {"runs": [run.name for run in runs]}
    for part in ("final", "curves", "costs"):
        found[part] = [{"run": run.name, **entry} for run in runs for entry in getattr(run.figures, part)]
    found["losses"] = [{"run": run.name, **entry} for run in runs for entry in run.losses]
    found["kept"], found["spread"] = [], []
    for run in runs:
        for number, memory in enumerate(run.memories):
            at = {"run": run.name, "memory": number}
            for group in memory.held.groups:
                seen: dict[str, Any] = group.seen or {"refused": None, "gone": None}
                told = {"label": group.label, "held": group.rows, "refused": seen["refused"], "gone": seen["gone"]}
                found["kept"].append({**at, **told, "recalled": group.recalled})
            found["spread"] += [{**at, "times": times, "rows": rows} for times, rows in memory.held.spread.items()]
    return found


def card(run: Run) -> dict[str, Any]:
    """What is said of a run at a glance."""
    metrics = [entry["metric"] for entry in run.figures.final]
    headline = next((name for name in HEADLINES if name in metrics), metrics[0] if metrics else None)
    rows = [entry for entry in run.figures.final if entry["metric"] == headline]
    # training on all data is what methods are measured by, not one of them
    rows = [entry for entry in rows if not entry["method"].startswith("joint")] or rows
    best = max(rows, key=lambda entry: float(entry["value"]), default=None)
    forgetting = None
    if best is not None:
        of_best = (e for e in run.figures.final if e["metric"] == "forgetting" and e["method"] == best["method"])
        forgetting = next(of_best, None)
    own = [entry["seconds"] for entry in run.figures.costs if entry["seconds"] is not None]
    return {
        "run": run,
        "seconds": own[0] if len(own) == 1 else run.results.get("seconds"),
        "best": best,
        "among": len({entry["method"] for entry in rows}),
        "forgetting": forgetting,
        "rows": sum(memory.held.told.get("rows", 0) for memory in run.memories if memory.title.startswith("in use")),
        "mistakes": sum(not case.right for case in run.cases),
    }


def in_bytes(value: float | None) -> str:
    """A number of bytes, for people.

    >>> in_bytes(17760), in_bytes(512), in_bytes(None)
    ('17.8 kB', '512 B', '-')
    """
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def duration(seconds: float | None) -> str:
    """Seconds, for people.

    >>> duration(2.61), duration(81.3), duration(7973.1), duration(None)
    ('2.6 s', '81 s', '2 h 13 min', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 300:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 / 60:.0f} min"


def figure(entry: dict[str, Any]) -> str:
    """A figure with its interval.

    >>> figure({"value": 85.27, "ci": 3.21}), figure({"value": 85.27, "ci": None})
    ('85.3 ± 3.2', '85.3')
    """
    return f"{entry['value']:.1f}" + (f" ± {entry['ci']:.1f}" if entry["ci"] else "")


def anchor(text: str) -> str:
    """A name as the identifier of an element.

    >>> anchor("runs/er 1")
    'runs-er-1'
    """
    return "".join(mark if mark.isalnum() else "-" for mark in text)
