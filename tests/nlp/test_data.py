import json
import warnings
from pathlib import Path

import pytest
import torch

from memreplay.nlp.data import Judged, Shots, TextData, TextSet, read_labelled, read_texts

ROWS = [("where is my card", "card"), ("שלום, היכן הכרטיס שלי؟", "card"), ("send 😀 money, now", "transfer")]


def write(path: Path, rows: list[tuple[str, str]], text: str = "text", label: str = "label") -> Path:
    """The rows in the format that the ending names."""
    match path.suffix:
        case ".csv" | ".tsv":
            mark = "," if path.suffix == ".csv" else "\t"
            lines = [mark.join((text, label)), *(mark.join((f'"{t}"', name)) for t, name in rows)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        case ".jsonl":
            path.write_text("".join(json.dumps({text: t, label: name}) + "\n" for t, name in rows), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps([{text: t, label: name} for t, name in rows]), encoding="utf-8")
        case ".parquet":
            datasets = pytest.importorskip("datasets")
            datasets.Dataset.from_dict({text: [t for t, _ in rows], label: [n for _, n in rows]}).to_parquet(path)
        case "":
            for number, (t, name) in enumerate(rows):
                (path / name).mkdir(parents=True, exist_ok=True)
                (path / name / f"{number}.txt").write_text(t, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet", "folder"])
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    texts, names = read_labelled(write(tmp_path / name, ROWS))
    assert list(zip(texts, names, strict=True)) == ROWS


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_columns_are_named_by_the_user(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, ROWS, "utterance", "intent")
    assert read_labelled(path, "utterance", "intent")[1] == ["card", "card", "transfer"]
    with pytest.raises(ValueError, match=r"text is 'utterence', .*\['utterance', 'intent'\]; did you mean utterance"):
        read_labelled(path, "utterence", "intent")
    with pytest.raises(ValueError, match="label is 'label', which is no column"):
        read_labelled(path, "utterance")


def test_words_that_look_like_numbers_or_nothing_stay_words(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufefftext,label\nnull,007\nNA,1.0\n", encoding="utf-8")
    assert read_labelled(path) == (["null", "NA"], ["007", "1.0"])
    numbers = tmp_path / "a.jsonl"
    numbers.write_text('{"text": "a", "label": 3}\n{"text": "b", "label": 4}\n')
    assert read_labelled(numbers)[1] == ["3", "4"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "lines.txt"])
def test_bytes_that_are_not_utf8_are_placed(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"text,label\nhello,a\ncaf\xe9,b\n")
    with pytest.raises(ValueError, match=rf"{name} is not UTF-8: byte 22 \(line 3\) is 0xe9"):
        read_texts(path) if name == "lines.txt" else read_labelled(path)


def test_bytes_that_are_not_utf8_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"1\.txt is not UTF-8: byte 0"):
        read_labelled(tmp_path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_empty_texts_are_counted_and_named(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, [("fine", "a"), ("", "a"), ("  ", "b"), ("fine too", "b")])
    with pytest.raises(ValueError, match=rf"{name} has an empty text in rows 2, 3; expected"):
        read_labelled(path)


def test_an_empty_file_and_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match="is empty; expected a first line"):
        read_labelled(tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_labelled(tmp_path / "b.csv")
    with pytest.raises(ValueError, match="has no texts; expected a sub-folder"):
        read_labelled(tmp_path)
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(ValueError, match=r"ends in '\.xlsx'; expected one of"):
        read_labelled(tmp_path / "a.xlsx")


def test_missing_values_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n')
    with pytest.raises(ValueError, match="has nothing in column 'label' in row 2"):
        read_labelled(path)


def test_a_text_under_two_labels_is_kept_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="1 texts under more than one label, such as 'a' under 'x' and 'y'; all are"):
        data = TextSet.of(["a", "b", "a"], ["x", "x", "y"])
    assert len(data) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TextSet.of(["a", "a"], ["x", "x"])  # the same text under the same label is no conflict


def test_a_text_set_counts_its_classes() -> None:
    data = TextSet.of(["a", "b", "c"], ["y", "x", "y"])
    assert data.classes == ("x", "y")
    assert data.labels.tolist() == [1, 0, 1]
    assert data.rows(torch.tensor([2])).names == ["y"]
    assert data.of_classes(["y"]).texts == ("a", "c")
    assert data.of_classes(["y"]).labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("texts", "names", "classes", "message"),
    [
        (["a"], ["x", "y"], None, "1 texts and 2 labels"),
        (["a", ""], ["x", "y"], None, "empty text in row 2"),
        (["a", "b"], ["x", " "], None, "no label in row 2"),
        (["a"], ["crad"], ["card", "fee"], "'crad', which is none of the 2 classes; did you mean 'card'"),
        ([3], ["x"], None, "a int in row 1; expected texts"),
    ],
)
def test_mistakes_are_named(texts: list[str], names: list[str], classes: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextSet.of(texts, names, classes)


def test_out_of_scope_texts_are_told_apart(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.csv", [*ROWS, ("tell me a joke", "oos")]))
    inside, outside = Judged(test=path, out_of_scope="oos").load(["card", "transfer"])
    assert len(inside) == 3
    assert outside == ["tell me a joke"]
    with pytest.raises(ValueError, match="'oos', which is none of the 2 classes"):
        Judged(test=path).load(["card", "transfer"])
    assert len(Shots(train=path).load().classes) == 3
    with pytest.raises(ValueError, match="has no texts but those out of scope"):
        Judged(test=str(write(tmp_path / "b.csv", [("tell me a joke", "oos")])), out_of_scope="oos").load(["card"])
    assert TextData(train=path, test=path, out_of_scope="oos").judged(path).out_of_scope == "oos"


def test_lines_of_a_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\nthree 😀\u2028\x85\x0c!".encode())
    assert read_texts(path) == ["one", "", "three 😀\u2028\x85\x0c!"]
