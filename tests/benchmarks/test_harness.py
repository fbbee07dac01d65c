from __future__ import annotations

import gc
import importlib.util
import json
import sys
from pathlib import Path

import pytest


@pytest.fixture
def harness(monkeypatch):
    path = Path(__file__).parents[2] / "benchmarks" / "harness.py"
    spec = importlib.util.spec_from_file_location("harness", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "harness", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_rate", lambda what: 1e-9)
    monkeypatch.setattr(module, "peer", lambda name: None)
    return module


def bench(harness, script, *seconds, note=None):
    made = harness.Bench()
    made.script = script
    for i, ours in enumerate(seconds):
        made.add(harness.Row(f"{script} {i}", ours))
    if note is not None:
        made.note(note)
    return made


def test_a_script_replaces_its_own_rows_only(harness, tmp_path):
    out = tmp_path / "results" / "cpu.json"
    bench(harness, "search", 1.0, 2.0, note="64 MB").save(out)
    bench(harness, "add", 3.0).save(out)
    bench(harness, "search", 4.0, note="60 MB").save(out)
    found = json.loads(out.read_text())
    assert [(row["operation"], row["ours"]) for row in found["rows"]] == [("add 0", 3.0), ("search 0", 4.0)]
    assert found["notes"] == {"search": ["60 MB"]}


def test_rows_of_another_machine_go(harness, tmp_path, monkeypatch):
    out = tmp_path / "cpu.json"
    bench(harness, "search", 1.0).save(out)
    monkeypatch.setattr(harness, "_processor", lambda: "another")
    bench(harness, "add", 3.0).save(out)
    found = json.loads(out.read_text())
    assert [row["script"] for row in found["rows"]] == ["add"]
    assert found["machine"]["processor"] == "another"


def test_a_folder_has_a_file_for_each_processor(harness, tmp_path, monkeypatch):
    for processor, name in (
        ("Intel(R) Xeon(R) Processor", "intel-xeon-processor"),
        ("AMD EPYC", "amd-epyc"),
        ("", "unknown"),
    ):
        monkeypatch.setattr(harness, "_processor", lambda processor=processor: processor)
        bench(harness, "add", 3.0).save(tmp_path)
        assert json.loads((tmp_path / f"{name}.json").read_text())["machine"]["processor"] == processor


def test_ratios_are_of_interleaved_rounds(harness):
    made = harness.Bench()
    ticks = iter([-1.0, 0.0, *[0.0, 1.0, 1.0, 3.0, 3.0, 5.0, 5.0, 13.0, 13.0, 14.0, 14.0, 17.0]])
    made.compare("x", lambda: None, {"peer": (lambda: None, 2.0)}, calls=1, rounds=3, clock=lambda: next(ticks))
    (row,) = made.rows
    assert (row.ours, row.theirs, row.ratio, row.worst, row.must) == (1.0, 3.0, 3.0, 2.0, 2.0)


def test_rounds_are_long_enough_and_free_of_what_was_there_before(harness):
    made, now, done, frozen = harness.Bench(), 0.0, 0, []

    def ours() -> None:
        nonlocal now, done
        now += 0.001
        done += 1
        frozen.append(gc.get_freeze_count())

    made.compare("x", ours, calls=2, rounds=3, clock=lambda: now)
    assert made.rows[0].ours == pytest.approx(0.001)
    assert done >= 3 * harness.ROUND / 0.001
    assert frozen[0] == 0 < frozen[-1]
    assert gc.get_freeze_count() == 0
