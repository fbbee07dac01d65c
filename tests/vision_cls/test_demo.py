import json
from pathlib import Path

import pytest
import torch

from memreplay.vision_cls import demo
from memreplay.vision_cls.data import digits


def test_the_control_keeps_the_labels_but_not_whose_they_are() -> None:
    learner = demo.er()
    rows = digits().batch(torch.arange(60))
    learner.memory.remember(**rows)
    before = learner.memory.source.rows()["label"]
    demo._shuffle_labels(learner.memory.source, 0)
    after = learner.memory.source.rows()["label"]
    assert torch.equal(before.sort().values, after.sort().values)
    assert not torch.equal(before, after)


def test_rehearsals_never_see_the_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(demo, "digits", lambda split: asked.append(split) or digits(split))
    monkeypatch.setattr(demo, "LEARNING_RATES", (0.03,))
    monkeypatch.setattr(demo, "METHODS", demo.METHODS[:1])
    demo.rehearse(100)
    assert asked == ["train"]


@pytest.mark.slow
def test_replay_wins_by_a_margin_that_the_intervals_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.demo(tmp_path)
    saved = json.loads((tmp_path / "results.json").read_text())
    rows = {(row["name"], row["metric"]): row for row in saved["rows"]}
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    for name in ("none", "classic", "er", "er-ace", "der++", "er, labels shuffled", "joint (all data kept)"):
        for metric in demo.METRICS:
            assert rows[name, metric]["seeds"] == 5
            assert rows[name, metric]["ci95"] is not None
    none, er = rows["none", "harmonic"], rows["er", "harmonic"]
    assert er["ours"] - er["ci95"] > none["ours"] + none["ci95"]
    shuffled = rows["er, labels shuffled", "harmonic"]
    assert er["ours"] - er["ci95"] > shuffled["ours"] + shuffled["ci95"]
    assert "er" in capsys.readouterr().out
