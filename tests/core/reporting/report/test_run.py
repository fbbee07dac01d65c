from collections.abc import Callable
from pathlib import Path

import pytest

from memreplay import ReplayMemory, Reservoir, Store
from memreplay.core.reporting.report.run import read_run, read_runs


def test_a_run_tells_what_its_folder_holds(run: Path, hostile: str) -> None:
    found = read_run(run)
    assert [loss["loss"] for loss in found.losses] == [2.0, 1.5]  # the third line is being written
    (memory,) = found.memories
    assert (memory.title, memory.held.told["rows"], len(found.cases)) == ("in use", 20, 2)
    groups = {group.label: group for group in memory.held.groups}
    assert sum(group.rows for group in groups.values()) == 20
    assert set(groups) == {"cat", "dog", hostile}
    cat = groups["cat"]
    assert cat.seen is not None
    assert cat.seen["offered"] == 24  # four rows in each of six steps
    assert cat.seen["held"] == cat.rows
    assert all(item.picture and item.picture.startswith("data:image/png") for item in cat.items)
    assert cat.items[0].text.startswith("text ")
    recalled = sum((item.recalled or 0) for group in groups.values() for item in group.items)
    assert recalled <= 5 * 4
    assert sum(memory.held.spread.values()) == 20
    # every row that a prediction rests on can be shown
    held = found.memory_of(found.cases[0])
    assert held is not None
    evidence = found.cases[0].evidence
    assert all(held.item(row["id"]) for row in [*evidence["for"], *evidence["against"]])


def test_what_was_forgotten_is_not_shown_as_evidence_any_more(run: Path) -> None:
    store = Store.load(run)
    store.forget(label=[0, 1, 2])
    store.save(run)
    found = read_run(run)
    held = found.memory_of(found.cases[0])
    assert held is None or not any(held.item(row["id"]) for row in found.cases[0].evidence["for"])
    assert "text 0.1" not in (run / "evidence.json").read_text()  # of rows it holds numbers only


def test_names_are_as_short_as_they_can_be(tmp_path: Path, make: Callable[..., Path]) -> None:
    runs = [make(tmp_path / name) for name in ("a/er", "b/er", "a/none")]
    assert [run.name for run in read_runs(runs[1:])] == ["er", "none"]
    assert [run.name for run in read_runs(runs)] == ["a/er", "b/er", "a/none"]


def test_a_memory_alone_and_a_results_file_alone_can_be_reported(tmp_path: Path, run: Path) -> None:
    ReplayMemory(Store(3, keep=Reservoir())).save(tmp_path / "empty")
    assert read_run(tmp_path / "empty").memories[0].held.groups == []
    alone = (run / "results.json").rename(tmp_path / "table.json")
    assert read_run(alone).name == "table"
    assert read_run(alone).memories == []


def test_what_cannot_be_reported_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"runs has '.*nowhere', which is not there; expected the folder of a run"
    ):
        read_run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"there is nothing to report; expected results.json"):
        read_run(tmp_path)
    (tmp_path / "results.json").write_text('{"rows": [{"name": 1}]}')
    with pytest.raises(ValueError, match=r"which holds no results.*expected a results.json"):
        read_run(tmp_path)
    (tmp_path / "evidence.json").write_text("[{}]")
    (tmp_path / "results.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match=r"evidence.json is damaged"):
        read_run(tmp_path)
