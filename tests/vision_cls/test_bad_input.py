"""What becomes of images and options that are not as they should be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from memreplay.cli import main
from memreplay.vision_cls import ImageAdapter
from memreplay.vision_cls import train as train_verb

COLOURS = {"cat": (220, 40, 40), "dog": (40, 220, 40), "owl": (40, 40, 220), "fox": (210, 210, 40)}
QUICK = ["--backbone", "Conv4", "--backbone.width", "8", "--data.size", "16"]
QUICK += ["--first", '{"steps": 60, "lr": 0.1}', "--later", '{"steps": 2}']


def photograph(name: str, number: int) -> Image.Image:
    generator = torch.Generator().manual_seed(number)
    noise = torch.randint(-30, 30, (24, 20, 3), generator=generator)
    return Image.fromarray((torch.tensor(COLOURS[name]) + noise).clamp(0, 255).byte().numpy())


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's images: four classes of eight."""
    for name in COLOURS:
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(8):
            photograph(name, number).save(tmp_path / "mine" / name / f"{number}.jpg", quality=95)
    return tmp_path / "mine"


def train(mine: Path, *words: Any) -> dict[str, float]:
    out = mine.parent / "out"
    main(["vision", "train", "--data", "ImageFolder", "--data.root", str(mine), *QUICK, *words, "--out", str(out)])
    rows = json.loads((out / "results.json").read_text())["rows"]
    return {f"{row['name']} {row['metric']}": row["ours"] for row in rows}


@pytest.fixture
def refusal(mine: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that ``train`` refuses something with."""

    def refused(*words: Any) -> str:
        with pytest.raises(SystemExit) as caught:
            train(mine, *words)
        assert caught.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not (mine.parent / "out" / "manifest.json").exists()
        return line

    return refused


def test_a_folder_is_enough(mine: Path) -> None:
    assert train(mine)["test accuracy"] == 100
    adapter = ImageAdapter.load(mine.parent / "out", device="cpu")
    assert adapter.classes == sorted(COLOURS)
    (found,) = adapter.predict([mine / "owl" / "3.jpg"])
    assert found.label == "owl"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shott", "5"], "unrecognized arguments: --shott 5; did you mean --shot?"),
        (["--data.rot", "x"], "Option 'rot' is not accepted; did you mean root? (see"),
        (["--config", "eer"], "config is 'eer'; expected a file or one of agem,"),
        (["--config", "eer"], "did you mean er?"),
        (["--augment", "memreplay.vision_cls.Augmnt"], "Augmnt"),
        (["--first", '{"epoch": 3}'], "did you mean epochs?"),
        (["--backbone", "Conv5"], "did you mean Conv4?"),
        (["--base", "2"], "base is 2 and way is None; expected both"),
        (["--base", "3", "--way", "2"], "way is 2"),
        (["--data.on_corrupt", "ignore"], "on_corrupt"),
    ],
)
def test_a_slip_in_the_options(words: list[str], message: str, refusal: Callable[..., str]) -> None:
    assert message in refusal(*words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frist: {epochs: 3}", "did you mean first.epochs?"),
        ("learner: {memory: {class_path: memreplay.ReplayMemroy}}", "ReplayMemroy"),
        ("seed: many", "seed"),
        ("seed: [1", "config"),
    ],
)
def test_a_slip_in_the_configuration(text: str, message: str, refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    line = refusal("--config", str(tmp_path / "mine.yaml"))
    assert message in line
    assert len(line) < 400


def test_a_folder_that_is_not_there(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train(mine / "nowhere")
    assert "nowhere'; expected a folder with a folder of images per class" in capsys.readouterr().err


def test_a_class_with_fewer_images_than_shots(mine: Path, refusal: Callable[..., str]) -> None:
    for number in range(3, 8):
        (mine / "owl" / f"{number}.jpg").unlink()
    words = ["--base", "2", "--way", "1", "--shot", "5"]
    line = refusal(*words)
    assert "class 'owl' has 2 images to learn from; expected at least 5, as shot is 5" in line
    found = train(mine, *words[:-1], "null")
    assert "after session 2 overall" in found


def test_a_class_with_one_image(mine: Path) -> None:
    for number in range(1, 8):
        (mine / "owl" / f"{number}.jpg").unlink()
    with pytest.warns(UserWarning, match="of 'owl' in .* there is no test image"):
        assert train(mine)["test accuracy"] > 90
    assert "owl" in ImageAdapter.load(mine.parent / "out", device="cpu").classes


def test_a_class_without_images(mine: Path, refusal: Callable[..., str]) -> None:
    (mine / "bat").mkdir()
    (mine / "bat" / "notes.txt").write_text("to come")
    assert "class 'bat' has no images in" in refusal()


def test_a_corrupt_image(mine: Path, refusal: Callable[..., str]) -> None:
    good = (mine / "owl" / "3.jpg").read_bytes()
    (mine / "owl" / "3.jpg").write_bytes(good[: len(good) // 2])
    line = refusal()
    assert "owl/3.jpg is no image that can be read" in line
    assert "on_corrupt 'skip' leaves such files out" in line
    with pytest.warns(UserWarning, match=r"left out: .*owl/3\.jpg is no image"):
        assert train(mine, "--data.on_corrupt", "skip")["test accuracy"] == 100


def test_grey_and_cmyk_and_transparent_images_are_images(mine: Path) -> None:
    for number in range(8):
        photograph("owl", number).convert("CMYK").save(mine / "owl" / f"{number}.jpg", quality=95)
        photograph("cat", number).convert("RGBA").save(mine / "cat" / f"{number}.png")
        (mine / "cat" / f"{number}.jpg").unlink()
        photograph("fox", number).convert("L").save(mine / "fox" / f"{number}.jpg", quality=95)
    assert train(mine)["test accuracy"] == 100
    adapter = ImageAdapter.load(mine.parent / "out", device="cpu")
    files = [mine / "owl" / "3.jpg", mine / "cat" / "3.png", mine / "fox" / "3.jpg"]
    assert [found.label for found in adapter.predict(files)] == ["owl", "cat", "fox"]


def test_weights_that_cannot_be_downloaded(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(train_verb, "TorchvisionModel", offline)
    words = ["--data", "ImageFolder", "--data.root", str(mine), "--out", str(mine.parent / "out")]
    with pytest.raises(SystemExit):
        main(["vision", "train", *words])
    (line,) = capsys.readouterr().err.splitlines()
    assert "ResNet-18 with weights that cannot be downloaded: no route to host; expected a backbone" in line
