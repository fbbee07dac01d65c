"""What users feed to it by mistake, through the command line: a clear error, or handling that is written down here."""

import io
import json
import sys
from pathlib import Path

import pytest

from memreplay.cli import main
from memreplay.nlp import TextAdapter, TextSet

GOOD = "text,label\nwhere is my card,card\nmy card is lost,card\nsend money,transfer\ntransfer my balance,transfer\n"
HEBREW, ARABIC, EMOJI = "היכן הכרטיס שלי", "أين بطاقتي", "😀😀"


def train(encoder: str, source: Path, *more: str) -> TextAdapter:
    out = source.parent / "out"
    words = ["--encoder", encoder, "--data.train", str(source), "--tuning", "null", "--cache", "null"]
    main(["nlp", "train", *words, *more, "--out", str(out)])
    return TextAdapter.load(out, device="cpu")


def written(folder: Path, content: str | bytes, name: str = "train.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + ",card\n", "train.csv has an empty text in row 5; expected at least one character"),
        (GOOD + "   ,card\n \t,card\n", "train.csv has an empty text in rows 5, 6;"),
        (GOOD + "my friend,\n", "train.csv has no label in row 5; expected the name of a class"),
        (GOOD + "my friend\n", "train.csv has no label in row 5; expected the name of a class"),
        (GOOD.encode() + b"caf\xe9,card\n", "train.csv is not UTF-8: byte 106 (line 6) is 0xe9; save it as UTF-8"),
        ("utterance,label\nmy card,card\n", "text is 'text', which is no column of"),
        ("text,intent\nmy card,card\n", "label is 'label', which is no column of"),
        ("text,label\n", "train.csv has no rows that can be read; expected texts"),
        ("", "train.csv is empty; expected a first line with the names of the columns"),
        (GOOD + "my card, please,card\n", "Expected 2 fields in line 6, saw 3"),
        (GOOD + '"my card,card\n', "EOF inside string"),
    ],
)
def test_files_that_cannot_be_learned_from(
    content: str | bytes, message: str, tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        train(tiny_encoder, written(tmp_path, content))
    assert caught.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": "x"}\n{"text": \n', "cannot be read: JSON parse error"),
        ('{"text": "a \\ud83d", "label": "x"}\n', "cannot be read: JSON parse error: The surrogate pair"),
        ('{"text": "a", "label": "x"}\n{"text": null, "label": "x"}\n', "has nothing in column 'text' in row 2"),
        ("", "train.jsonl has no rows that can be read"),
    ],
)
def test_json_that_cannot_be_learned_from(
    content: str, message: str, tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(tiny_encoder, written(tmp_path, content, "train.jsonl"))
    assert message in capsys.readouterr().err


def test_ten_thousand_words_are_cut_with_a_warning(tiny_encoder: str, tmp_path: Path) -> None:
    long = "card " * 10_000
    with pytest.warns(UserWarning, match="1 of 7 texts have 32 tokens or more and were cut; see max_length"):
        adapter = train(tiny_encoder, written(tmp_path, GOOD + long + ",card\n"))
    with pytest.warns(UserWarning, match="1 of 1 texts have 32 tokens or more"):
        (prediction,) = adapter.predict([long])
    assert prediction.text == long  # it is told, and remembered, as a whole
    assert prediction.memories[0].text == long
    assert prediction.memories[0].similarity == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("tuning", [[], ["--tuning", "{}"]])
def test_labels_with_one_example(tuning: list[str], tiny_encoder: str, tmp_path: Path) -> None:
    adapter = train(tiny_encoder, written(tmp_path, "text,label\nwhere is my card,a\nsend money,b\n"), *tuning)
    assert [p.label for p in adapter.predict(["where is my card", "send money"])] == ["a", "b"]


def test_a_single_label(tiny_encoder: str, tmp_path: Path) -> None:
    """Is learned, so that others can be added."""
    adapter = train(tiny_encoder, written(tmp_path, "text,label\nwhere is my card,a\nmy card,a\n"))
    assert adapter.predict(["send money"])[0].label == "a"
    adapter.add_classes(["send money"], ["b"])
    assert adapter.predict(["send money"])[0].label == "b"


def test_a_text_under_two_labels_is_kept_under_both_with_a_warning(tiny_encoder: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="'send money' under 'transfer' and 'card'; all are kept"):
        adapter = train(tiny_encoder, written(tmp_path, GOOD + "send money,card\n"))
    (prediction,) = adapter.predict(["send money"])
    assert {memory.label for memory in prediction.memories[:2]} == {"transfer", "card"}


def test_emoji_and_right_to_left_text_come_back_as_they_were(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = GOOD + f"{EMOJI},card\n{HEBREW},כרטיס\n{ARABIC},transfer 💸\n"
    adapter = train(tiny_encoder, written(tmp_path, content))
    assert adapter.classes == ["card", "transfer", "transfer 💸", "כרטיס"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{HEBREW}\n{EMOJI}\n".encode())))
    capsys.readouterr()
    main(["nlp", "predict", "--adapter", str(tmp_path / "out"), "--memories", "7"])
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == [HEBREW, EMOJI]
    assert HEBREW in lines[0]  # not as escapes
    assert {HEBREW, EMOJI, ARABIC} <= {memory["text"] for memory in json.loads(lines[0])["memories"]}


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(ValueError, match=r"texts has half a character \(a lone surrogate\) in row 2; expected Unicode"):
        TextSet.of(["fine", "cut \ud83d"], ["a", "b"])


def test_empty_lines_and_bad_bytes_in_what_is_asked(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_encoder, written(tmp_path, GOOD))
    asked = written(tmp_path, "where is my card\n\n   \n", "asked.txt")
    capsys.readouterr()
    main(["nlp", "predict", "--adapter", str(tmp_path / "out"), "--input", str(asked)])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["label"] for line in found] == ["card", None, None]
    bad = written(tmp_path, b"my card\n\xff\n", "bad.txt")
    with pytest.raises(SystemExit):
        main(["nlp", "predict", "--adapter", str(tmp_path / "out"), "--input", str(bad)])
    assert "bad.txt is not UTF-8: byte 8 (line 2) is 0xff" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n,fee\n", "new.csv has an empty text in row 1"),
        ("text,name\nmy fee,fee\n", "label is 'label', which is no column of"),
        (b"text,label\n\xff,fee\n", "new.csv is not UTF-8"),
    ],
)
def test_an_adapter_is_unharmed_by_classes_that_cannot_be_added(
    content: str | bytes, message: str, tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_encoder, written(tmp_path, GOOD))
    files = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    new = written(tmp_path, content, "new.csv")
    with pytest.raises(SystemExit):
        main(["nlp", "add-classes", "--adapter", str(tmp_path / "out"), "--data.train", str(new)])
    assert message in capsys.readouterr().err
    assert files == {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
