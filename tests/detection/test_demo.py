import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from memreplay.detection import demo


@pytest.fixture(scope="module")
def start() -> Iterator[demo.Start]:
    """Learned for two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "BASE", replace(demo.BASE, steps=2))
        patch.setattr(demo, "TUNING", replace(demo.TUNING, steps=2, passes=1))
        patch.setattr(demo, "LEARNING_RATES", (0.001, 0.01))
        patch.setattr(demo, "SHOWN", ("finetune", "replay"))
        yield demo.learn_base(0)


def test_a_seed_from_rehearsal_to_figures(start: demo.Start) -> None:
    assert sorted(start.digits) == list(range(10))
    assert set(start.rows["label"].tolist()) == {-1, *range(6)}
    rehearsal = demo.rehearse(start, 0)
    assert {name: len(values) for name, values in rehearsal.items()} == {"finetune": 2, "replay": 2}
    found = demo.measure(start, dict.fromkeys((*demo.SHOWN, demo.FOR_NOVEL), 0.01), 0)
    assert found[demo.FOR_NOVEL] == found["finetune"]
    assert found["finetune"]["bytes"] == 0
    assert found["replay"]["bytes"] > 0
    assert set(found) == {"before", "finetune", demo.FOR_NOVEL, "replay", demo.SHUFFLED}
    assert all(0 <= of_method["base"] <= 100 for of_method in found.values())


def test_the_best_learning_rate_depends_on_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "LEARNING_RATES", (0.1, 0.2, 0.3))
    rehearsals: list[demo.Rehearsal] = [
        {"finetune": [{"novel": n, "harmonic": h} for n, h in values]}
        for values in (((1, 5), (4, 4), (2, 0)), ((1, 5), (2, 4), (3, 0)))
    ]
    assert demo.best(rehearsals, "finetune", "harmonic") == 0.1
    assert demo.best(rehearsals, "finetune", "novel") == 0.2


def test_handwriting_is_learned_from_or_judged_on(start: demo.Start) -> None:
    shots, rehearsal, test = ({tuple(p.name.split("-")[:2]) for p in s.pictures} for s in start.scenes)
    assert (shots, rehearsal, test) == ({("train", "1000")}, {("train", "2000")}, {("test", "3000")})


def test_pictures(start: demo.Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_STARTS", {0: start})
    demo.pictures(0, dict.fromkeys(demo.SHOWN, 0.01), tmp_path / "some" / "pictures.png")
    with Image.open(tmp_path / "some" / "pictures.png") as sheet:
        assert sheet.size == (3 * 260, 4 * 260)
    with Image.open(tmp_path / "some" / "memory.png") as sheet:
        assert sheet.size == (120 + 10 * 48, 6 * 48)
        # a region on a line has the pixels that it was pooled from
        assert len(set(sheet.crop((121, 1, 165, 45)).getdata())) > 5


@pytest.mark.slow
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.demo(tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    ours = {(row["name"], row["metric"]): row["ours"] for row in rows}
    # the same learning rate serves old and new digits only where there is a memory
    assert ours["replay", "base"] > ours[demo.FOR_NOVEL, "base"] + 20
    assert ours["replay", "novel"] > ours[demo.FOR_NOVEL, "novel"]
    assert ours["replay", "base"] > ours["finetune", "base"]
    assert ours["replay", "base"] > 0.98 * ours["before", "base"]
    assert ours["replay", "novel"] > ours["finetune", "novel"]
    assert ours["replay", "all"] > ours[demo.SHUFFLED, "all"]
    assert "learning rates chosen in rehearsal" in capsys.readouterr().out
