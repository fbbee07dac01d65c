"""Hooks of mkdocs: the tables of results from their files, and pages in the navigation once they are there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
LATER = {
    "choosing-a-policy.md": ("Choosing a policy", "The core"),
    "detection-at-paper-scale.md": ("Detection at paper scale", "Results"),
}
"""Pages that appear in the navigation when they exist: their title, and the section."""


def on_config(config: Any) -> Any:
    """Adds to the navigation what is there."""
    tables = [{_title(path): f"results/{path.name}"} for path in sorted((DOCS / "results").glob("*.md"))]
    for entry in config.nav:
        for title, pages in entry.items():
            if title == "Results":
                entry[title] = [pages, *tables]
    for page, (title, section) in LATER.items():
        if (DOCS / page).exists():
            (pages,) = (entry[section] for entry in config.nav if section in entry)
            pages.append({title: page})
    return config


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Fills in the tables that a page asks for: ``<!-- published -->``, and ``<!-- table: NAME METRIC ROWS -->``.

    Where no rows are named, all are meant.
    """
    markdown = markdown.replace("<!-- published -->", published())
    return re.sub(
        r"<!-- table: (\S+) (\S+)(.*?) -->", lambda found: table(found[1], found[2], found[3].split()), markdown
    )


def published() -> str:
    """Every figure for which there is a published one."""
    lines = [
        "| recipe | row | metric | published | memreplay | difference | seeds |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for path in sorted((DOCS / "results").glob("*.json")):
        found = json.loads(path.read_text("utf-8"))
        for row in found["rows"]:
            if row["published"] is not None:
                lines.append(
                    f"| [{found['recipe']}](results/{path.stem}.md) | {row['name']} | {row['metric']} "
                    f"| {row['published']:.2f} | {_with_interval(row)} | {row['ours'] - row['published']:+.2f} "
                    f"| {row['seeds']} |"
                )
    return "\n".join(lines)


def table(name: str, metric: str, rows: list[str]) -> str:
    """Some rows of a table of results."""
    found = json.loads((DOCS / "results" / f"{name}.json").read_text("utf-8"))["rows"]
    by_name = {row["name"]: row for row in found if row["metric"] == metric}
    lines = [f"| | {metric.replace('_', ' ')} | seeds |", "|---|---:|---:|"]
    lines += [f"| {row} | {_with_interval(by_name[row])} | {by_name[row]['seeds']} |" for row in rows or by_name]
    return "\n".join(lines)


def _with_interval(row: dict[str, Any]) -> str:
    return f"{row['ours']:.2f}" + (f" ± {row['ci95']:.2f}" if row["ci95"] is not None else "")


def _title(path: Path) -> str:
    return path.read_text("utf-8").partition("\n")[0].lstrip("# ")
