"""The README's code runs, and its figures are those of the committed results."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_code_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert len(names["memory"].source) == 160  # type: ignore[attr-defined]
    assert 3 not in names["store"].rows()["label"]  # type: ignore[attr-defined]


def test_the_split_mnist_table_is_the_measured_one() -> None:
    rows = json.loads((ROOT / "docs" / "results" / "split-mnist.json").read_text())["rows"]
    found = {row["name"]: row for row in rows if row["metric"] == "accuracy"}
    row_of_table = r"^\| ([\w+., ]+?) \| (\d*) \| ([\d.]*) \| ([\d.]+ ± [\d.]+) \| (\d+) \|$"
    shown = re.findall(row_of_table, README, re.MULTILINE)
    assert len(shown) >= 10
    for method, buffer, published, ours, seeds in shown:
        name = {"ours, replay augmented": "ours+jitter"}.get(method, method).lower()
        row = found[f"{name}-{buffer}" if buffer else name]
        assert published == ("" if row["published"] is None else f"{row['published']:.2f}")
        assert ours == f"{row['ours']:.2f} ± {row['ci95']:.2f}"
        assert int(seeds) == row["seeds"]


def test_the_demo_figures_are_the_measured_ones() -> None:
    rows = json.loads((ROOT / "docs" / "results" / "demo.json").read_text())["rows"]
    harmonic = {row["name"]: row for row in rows if row["metric"] == "harmonic"}
    for name in ("none", "er"):
        assert f"{harmonic[name]['ours']:.1f} ± {harmonic[name]['ci95']:.1f}" in README
