"""The verbs, as a user runs them."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch

from memreplay.cli import main
from memreplay.nlp import TextAdapter, TextEncoder
from memreplay.nlp.tuning import Tuning

SHOTS = {
    "lost_card": ["where is my card", "my card please", "i lost my card", "it is stolen"],
    "show_balance": ["show my balance", "the money left", "how is my balance", "balance please"],
}
QUICK = ["--tuning", "null", "--cache", "null", "--recipe.head.C", "1000"]


def table(path: Path, shots: dict[str, list[str]] = SHOTS) -> str:
    lines = [f"{text},{name}" for name, texts in shots.items() for text in texts]
    path.write_text("\n".join(["question,intent", *lines]) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def adapter(tiny_encoder: str, tmp_path: Path) -> Path:
    source = table(tmp_path / "train.csv")
    columns = ["--data.train", source, "--data.test", source, "--data.text", "question", "--data.label", "intent"]
    main(["nlp", "train", "--encoder", tiny_encoder, *columns, *QUICK, "--out", str(tmp_path / "out")])
    return tmp_path / "out"


def rows(folder: Path) -> dict[tuple[str, str], float]:
    saved = json.loads((folder / "results.json").read_text())
    return {(row["name"], row["metric"]): row["ours"] for row in saved["rows"]}


def predictions(text: str, adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    capsys.readouterr()
    main(["nlp", "predict", "--adapter", str(adapter)])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_train_writes_accuracy_in_percent(adapter: Path) -> None:
    assert rows(adapter)["test", "accuracy"] == 100
    assert (adapter / "manifest.json").is_file()
    assert "tuning: null" in (adapter / "config.yaml").read_text()


@pytest.mark.parametrize("options", [[], ["--lora", "2"], ["--precision", "bfloat16"], ["--precision", "int8"]])
def test_train_fine_tunes_by_default(
    options: list[str], tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was fine-tuned is loaded again, whatever it was computed in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = table(tmp_path / "train.csv")
    columns = ["--data.train", source, "--data.text", "question", "--data.label", "intent"]
    main(["nlp", "train", "--encoder", tiny_encoder, *columns, *options, "--out", str(tmp_path / "out")])
    assert rows(tmp_path / "out") == {}
    loaded = TextAdapter.load(tmp_path / "out", device="cpu").encoder
    fresh = TextEncoder.load(tiny_encoder, device="cpu")
    changed = loaded.tuned_weights()
    assert changed
    assert all(values.dtype == torch.float32 for values in changed.values())
    assert any(not values.equal(fresh.body.state_dict()[name]) for name, values in changed.items())


def test_labels_of_the_test_file_are_looked_at_first(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Tuning, "tune", lambda *_, **__: pytest.fail("it went on to learn"))
    train = table(tmp_path / "train.csv")
    test = table(tmp_path / "test.csv", {"lost_crad": ["my card"]})
    columns = ["--data.train", train, "--data.test", test, "--data.text", "question", "--data.label", "intent"]
    with pytest.raises(SystemExit):
        main(["nlp", "train", "--encoder", tiny_encoder, *columns, "--out", str(tmp_path / "out")])
    assert "the label 'lost_crad', which is none of the 2 classes; did you mean 'lost_card'" in capsys.readouterr().err


def test_a_threshold_comes_from_the_validation_texts(tiny_encoder: str, tmp_path: Path) -> None:
    train = table(tmp_path / "train.csv")
    valid = table(tmp_path / "valid.csv", {**SHOTS, "oos": ["zebra zebra", "zebra a zebra"]})
    columns = ["--data.train", train, "--data.valid", valid, "--data.text", "question", "--data.label", "intent"]
    columns += ["--data.out_of_scope", "oos"]
    main(["nlp", "train", "--encoder", tiny_encoder, *columns, *QUICK, "--out", str(tmp_path / "out")])
    found = rows(tmp_path / "out")
    assert found["valid", "out of scope auroc"] == 100
    assert found["valid", "in scope kept"] == found["valid", "out of scope told"] == 100


def test_predict_reads_standard_input(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, blank, other = predictions("\ufeffi lost my card\n\n語 😀\n", adapter, monkeypatch, capsys)
    assert first["label"] == "lost_card"
    assert first["memories"][0] == {"text": "i lost my card", "label": "lost_card", "similarity": 1.0}
    assert blank == {"text": "", "label": None, "probability": 0.0, "memories": []}
    assert other["text"] == "語 😀"


def test_predict_reads_a_table(adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    words = ["--adapter", str(adapter), "--input", str(tmp_path / "train.csv"), "--text", "question"]
    main(["nlp", "predict", *words, "--out", str(out)])
    labels = [json.loads(line)["label"] for line in out.read_text("utf-8").splitlines()]
    assert labels == ["lost_card"] * 4 + ["show_balance"] * 4


def test_add_evaluate_forget(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = table(
        tmp_path / "new.csv", {"send_money": ["send money to a friend", "transfer the money", "how do i transfer"]}
    )
    columns = ["--data.text", "question", "--data.label", "intent"]
    main(["nlp", "add-classes", "--adapter", str(adapter), "--data.train", new, *columns])
    assert "1 new classes from 3 texts" in capsys.readouterr().out
    judged = ["nlp", "evaluate", "--adapter", str(adapter), "--data.test", new, *columns]
    main([*judged, "--out", str(tmp_path / "judged")])
    assert rows(tmp_path / "judged")["test", "accuracy"] == 100
    main([*judged, "--out", str(adapter)])  # leaves evidence beside the adapter, with texts
    assert (adapter / "evidence.json").exists()
    main(["nlp", "forget", "--adapter", str(adapter), "--label", "send_money"])
    assert not (adapter / "evidence.json").exists()
    with pytest.raises(SystemExit):
        main(judged)
    assert "'send_money', which is none of the 2 classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.text", "questoin", "--data.label", "intent"], "did you mean question"),
        (["--data.text", "question"], "label is 'label', which is no column"),
        (["--data.txet", "question"], "did you mean --data.text"),
    ],
)
def test_mistakes_cost_one_line(
    words: list[str], message: str, tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = table(tmp_path / "train.csv")
    with pytest.raises(SystemExit) as caught:
        main(["nlp", "train", "--encoder", tiny_encoder, "--data.train", source, *words, "--out", str(tmp_path / "o")])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_forgetting_what_is_not_there(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nlp", "forget", "--adapter", str(adapter), "--label", "fee"])
    assert "label is 'fee'; expected one of the classes ['lost_card', 'show_balance']" in capsys.readouterr().err


def test_standard_input_that_is_not_utf8(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"fine\n\xff\n")))
    with pytest.raises(SystemExit):
        main(["nlp", "predict", "--adapter", str(adapter)])
    assert "standard input is not UTF-8 in line 2" in capsys.readouterr().err


def test_inspect_says_how_stale_a_memory_is(
    adapter: Path, tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    main(["inspect", str(adapter), "--model", str(adapter), "--json"])
    found = json.loads(capsys.readouterr().out)["staleness"]
    assert set(found) == {"all", "lost_card", "show_balance"}
    assert found["all"]["rows"] == 8
    assert found["all"]["least"] == pytest.approx(1, abs=1e-6)  # nothing has changed
    columns = ["--data.train", table(tmp_path / "train.csv"), "--data.text", "question", "--data.label", "intent"]
    for name, seed in (("one", "0"), ("other", "1")):
        words = ["--encoder", tiny_encoder, *columns, "--tuning.lr", "0.01", "--seed", seed]
        main(["nlp", "train", *words, "--out", str(tmp_path / name)])
    capsys.readouterr()
    main(["inspect", str(tmp_path / "one"), "--model", str(tmp_path / "other")])
    text = capsys.readouterr().out
    assert f"stored features and those of the model in {tmp_path}" in text.replace("\n", "")
    rows, mean, median, least = next(line.split()[1:] for line in text.splitlines() if line.startswith("all "))
    assert rows == "8"
    assert float(least) <= float(median) < 1
    assert float(mean) < 0.9999
    with pytest.raises(SystemExit):
        main(["inspect", str(adapter), "--model", str(tmp_path / "one")])
    assert "encoder gave shape (8, 32); expected (8, 16), as is stored" in capsys.readouterr().err


def test_fine_tuning_goes_on_where_it_was_stopped(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from memreplay.core import training

    columns = ["--data.train", table(tmp_path / "train.csv"), "--data.text", "question", "--data.label", "intent"]
    words = ["nlp", "train", "--encoder", tiny_encoder, *columns, "--tuning.epochs", "4", "--tuning.batch_size", "4"]
    main([*words, "--out", str(tmp_path / "whole")])
    whole = TextAdapter.load(tmp_path / "whole", device="cpu")

    class Impatient(training.Interrupt):
        """Ctrl-C after three steps."""

        steps = 0

        def wanted(self, ask: bool) -> bool:
            Impatient.steps += 1
            self._signal = 2 if Impatient.steps == 3 else self._signal
            return super().wanted(ask)

    with monkeypatch.context() as stopping:
        stopping.setattr(training, "Interrupt", Impatient)
        with pytest.raises(SystemExit) as ended:
            main([*words, "--out", str(tmp_path / "parts")])
    assert ended.value.code == 130
    config = str(tmp_path / "parts" / "config.yaml")
    said = f"memreplay nlp train: stopped; to go on: memreplay nlp train --config {config} --resume true"
    assert said in capsys.readouterr().err
    main(["nlp", "train", "--config", config, "--resume", "true"])
    parts = TextAdapter.load(tmp_path / "parts", device="cpu")
    asked = ["where is my card", "balance please"]
    assert parts.probabilities(parts.encoder.embed(asked)).equal(whole.probabilities(whole.encoder.embed(asked)))
