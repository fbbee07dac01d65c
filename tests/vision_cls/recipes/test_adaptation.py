import json
from pathlib import Path

import pytest

from memreplay.vision_cls.recipes import adaptation


def test_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "NETWORK_RATES", (0.03, 0.1))
    monkeypatch.setattr(adaptation, "SHOTS", (5,))
    monkeypatch.setattr(adaptation, "STEPS", (100,))
    adaptation.reproduce(seeds=1, out=tmp_path, only=["digits"])
    saved = json.loads((tmp_path / "results.json").read_text())
    found = {(row["name"], row["metric"]): row["ours"] for row in saved["rows"]}
    before, forgotten, kept = (
        found[f"digits, 5-shot, recall {how}", "old after"]
        for how in ("on, 0 steps", "off, 100 steps", "on, 100 steps")
    )
    assert before > 90
    assert kept > forgotten + 10
    assert found["digits, 5-shot, recall on, 100 steps", "new after"] > 40
    assert found["digits, 5-shot, recall on, 0 steps", "new after"] < 10
    assert len(saved["config"]["learning rates, digits"]) == 1


def test_a_rehearsal_sees_no_test_row_and_no_new_class(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = adaptation._digits()
    seen: dict[str, list[int]] = {}
    start = adaptation._network_start

    def spy(known: dict, judged: dict, seed: int) -> object:
        seen.setdefault("known", []).append(len(known["label"]))
        seen.setdefault("judged", []).append(len(judged["label"]))
        seen.setdefault("classes", []).append(int(judged["label"].max()) + 1)
        return start(known, judged, seed)

    monkeypatch.setattr(adaptation, "_network_start", spy)
    monkeypatch.setattr(adaptation, "rehearse", lambda *_, **__: {True: 0.1, False: 0.1})
    monkeypatch.setattr(adaptation, "by_steps", lambda *_, **__: {})
    adaptation.adapt("digits", train, test, 4, seed=0)
    assert seen["classes"] == [6, 10]  # the six old digits, four of them known; then all
    assert seen["judged"] == [6 * adaptation.VALID, len(test["label"])]
    assert seen["known"][0] < seen["known"][1]


def test_only_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only is 'digit'; expected one of digits, mini-imagenet"):
        adaptation.reproduce(out=tmp_path, only=["digit"])
