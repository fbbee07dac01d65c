"""The verbs that take a saved adapter, as a user runs them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from memreplay.cli import main
from memreplay.core.heads import LogisticRegression
from memreplay.core.reporting.cases import Case, save_cases
from memreplay.vision_cls import Conv4, ImageAdapter, ImageEncoder, Recipe, image_folder

COLOURS = {"red": (230, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 230), "grey": (120, 120, 120)}
Paint = Callable[..., Path]


@pytest.fixture
def paint(tmp_path: Path) -> Paint:
    """Writes noisy images of some colours, a folder per class."""

    def painted(root: str, *classes: str, n: int = 6) -> Path:
        generator = torch.Generator().manual_seed(len(root))
        for name in classes:
            (tmp_path / root / name).mkdir(parents=True)
            for number in range(n):
                noise = torch.randint(-25, 25, (20, 16, 3), generator=generator)
                pixels = (torch.tensor(COLOURS[name]) + noise).clamp(0, 255).byte()
                Image.fromarray(pixels.numpy()).save(tmp_path / root / name / f"{number}.png")
        return tmp_path / root

    return painted


@pytest.fixture
def adapter(tmp_path: Path, paint: Paint) -> Path:
    torch.manual_seed(0)
    # the vectors of random weights lie close together, where the default would underfit
    made = ImageAdapter(ImageEncoder(Conv4(3, 16, 2, width=16), 3, 16), Recipe(LogisticRegression(1000.0)))
    made.learn(image_folder(paint("first", "red", "green"), size=16, test_fraction=0))
    made.save(tmp_path / "adapter")
    return tmp_path / "adapter"


def predictions(capsys: pytest.CaptureFixture[str], *words: Any) -> list[dict[str, Any]]:
    capsys.readouterr()
    main(["vision", "predict", *map(str, words)])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refusal(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["vision", *map(str, words)])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_predict_a_folder(adapter: Path, paint: Paint, capsys: pytest.CaptureFixture[str]) -> None:
    asked = paint("asked", "green", "red", n=2)
    found = predictions(capsys, "--adapter", adapter, "--input", asked)
    assert [Path(line["file"]).relative_to(asked).as_posix() for line in found] == [
        "green/0.png", "green/1.png", "red/0.png", "red/1.png",
    ]  # fmt: skip
    for line in found:
        assert line["label"] == Path(line["file"]).parent.name
        assert 0.5 < line["probability"] <= 1
        assert [Path(memory["file"]).parent.name for memory in line["memories"]] == [line["label"]] * 3
        assert all(Path(memory["file"]).is_file() for memory in line["memories"])


def test_predict_files_and_say_which_cannot_be_read(
    adapter: Path, paint: Paint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = paint("asked", "red", n=1) / "red" / "0.png"
    (tmp_path / "broken.jpg").write_bytes(asked.read_bytes()[:60])
    places = json.dumps([str(tmp_path / "broken.jpg"), str(asked)])
    out = tmp_path / "labels.jsonl"
    main(["vision", "predict", "--adapter", str(adapter), "--input", places, "--out", str(out)])
    broken, good = (json.loads(line) for line in out.read_text().splitlines())
    assert (broken["label"], broken["probability"], broken["memories"]) == (None, 0.0, [])
    assert "no image that can be read" in broken["error"]
    assert (good["label"], good["error"]) == ("red", None)
    assert "1 of 2 files could not be read" in capsys.readouterr().err


def test_add_evaluate_forget(adapter: Path, paint: Paint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["vision", "add-classes", "--adapter", str(adapter), "--images", str(paint("new", "blue", n=3))])
    assert "1 new classes from 3 images" in capsys.readouterr().out
    judged = ["--data", "ImageFolder", "--data.root", str(paint("judged", "blue", "green", "red"))]
    judged = ["vision", "evaluate", "--adapter", str(adapter), *judged, "--data.test_fraction", "1"]
    main([*judged, "--out", str(tmp_path / "judged")])
    rows = json.loads((tmp_path / "judged" / "results.json").read_text())["rows"]
    assert {row["name"]: row["ours"] for row in rows} == {"test": 100, "blue": 100, "green": 100, "red": 100}
    save_cases([Case("blue-1.png", None, "blue", "blue", 0.9, {})], adapter)
    main(["vision", "forget", "--adapter", str(adapter), "--label", "blue"])
    assert "forgot blue and 3 rows of the memory; 2 classes are left" in capsys.readouterr().out
    content = b"".join(path.read_bytes() for path in adapter.rglob("*") if path.is_file())
    assert b"blue" not in content
    assert "data has the class 'blue', which is none of the 2 classes" in refusal(capsys, *judged[1:])


def test_a_new_adapter_beside_the_old_one(adapter: Path, paint: Paint, tmp_path: Path) -> None:
    new = str(paint("new", "blue", n=1))
    main(["vision", "add-classes", "--adapter", str(adapter), "--images", new, "--out", str(tmp_path / "other")])
    assert ImageAdapter.load(adapter).classes == ["green", "red"]
    assert ImageAdapter.load(tmp_path / "other").classes == ["green", "red", "blue"]


def test_mistakes_cost_one_line(
    adapter: Path, paint: Paint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ["--adapter", adapter]
    assert "expected one of the classes ['green', 'red']" in refusal(capsys, "forget", *there, "--label", "rde")
    assert "all the classes there are" in refusal(capsys, "forget", *there, "--label", '["red", "green"]')
    assert "did you mean --adapter?" in refusal(capsys, "predict", "--adaptor", adapter)
    assert "expected an image or a folder of images" in refusal(capsys, "predict", *there, "--input", "nowhere")
    (tmp_path / "empty").mkdir()
    assert "a folder without images" in refusal(capsys, "predict", *there, "--input", tmp_path / "empty")
    assert "holds no save" in refusal(capsys, "predict", "--adapter", tmp_path, "--input", tmp_path / "first")
    assert "expected one per class" in refusal(capsys, "add-classes", *there, "--images", tmp_path / "empty")
    judged = ["--data", "ImageFolder", "--data.root", paint("other", "grey"), "--data.test_fraction", 1]
    assert "data has the class 'grey', which is none of the 2" in refusal(capsys, "evaluate", *there, *judged)
    assert ImageAdapter.load(adapter).classes == ["green", "red"]
