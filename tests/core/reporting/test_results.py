import json
from pathlib import Path

import pytest

from memreplay.core.reporting import Results


def test_a_figure_is_the_mean_with_its_student_interval(tmp_path: Path) -> None:
    results = Results("a/b", {"lr": 0.1})
    results.add("er", "accuracy", [85.0, 86.0, 87.0], published=85.5)
    results.add("none", "accuracy", [20.0])
    results.memory_bytes = 12
    saved = json.loads(results.save(tmp_path / "out").read_text())
    er, none = saved["rows"]
    # t(2) = 4.3027 at 95 %, standard error 1 / sqrt(3)
    assert er.pop("ci95") == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert er == {"name": "er", "metric": "accuracy", "published": 85.5, "ours": 86.0, "seeds": 3}
    assert none["ci95"] is None
    assert none["seeds"] == 1
    assert saved["recipe"] == "a/b"
    assert saved["config"] == {"lr": 0.1}
    assert saved["memory_bytes"] == 12
    assert {"seconds", "device", "versions"} <= saved.keys()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "results.md"}
    told = (tmp_path / "out" / "results.md").read_text()
    assert "| er | 86.00 ± 2.48 | 85.50 | +0.50 | 3 |" in told
    assert "over 1 or 3 seeds; memory 12 bytes" in told


def test_the_table_shows_published_ours_and_the_difference(capsys: pytest.CaptureFixture[str]) -> None:
    results = Results("a/b")
    results.add("er", "accuracy", [85.0, 86.0, 87.0], published=85.5)
    results.print(decimals=1)
    printed = capsys.readouterr().out
    assert "86.0 ± 2.5" in printed
    assert "85.5" in printed
    assert "+0.5" in printed


def test_a_metric_without_published_figures_has_one_column_and_equal_figures_no_interval() -> None:
    results = Results("a/b")
    results.add("er", "accuracy", [85.0, 87.0], published=85.5)
    results.add("er", "memory (kB)", [12.0, 12.0])
    head, _, row = results.markdown().splitlines()[2:5]
    assert head == "|  | accuracy | published | difference | memory (kB) |"
    assert row == "| er | 86.00 ± 12.71 | 85.50 | +0.50 | 12.00 |"
