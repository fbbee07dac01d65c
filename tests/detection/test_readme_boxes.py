"""The README's section on boxes runs as it stands, but for the size of the detector and the number of steps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from memreplay.detection.coco import as_coco
from memreplay.detection.data import DetectionSet
from memreplay.detection.scenes import digit_scenes

from .test_verbs import ARCHITECTURE, TUNING

QUICK = f" --base.steps 2 --base.images 2 {' '.join(TUNING)}"


def scenes(folder: Path, name: str, classes: tuple[str, ...], seed: int) -> None:
    made = digit_scenes(10, range(len(classes)), size=48, split="train", seed=seed)
    data = DetectionSet(classes, made.pictures, made.files)
    (folder / "images").mkdir(exist_ok=True)
    for number, picture in enumerate(data.pictures):
        Image.fromarray(data.image(number).permute(1, 2, 0).numpy()).save(folder / "images" / picture.name)
    (folder / name).write_text(json.dumps(as_coco(data)))


def test_the_section_on_boxes_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    section_of_readme: Callable[[str], list[str]],
    run_command: Callable[[str], str],
) -> None:
    monkeypatch.chdir(tmp_path)
    scenes(tmp_path, "boxes.json", ("car", "bus", "cow"), 0)
    scenes(tmp_path, "new.json", ("tram", "ferry"), 1)
    next((tmp_path / "images").iterdir()).rename(tmp_path / "street.jpg")
    scenes(tmp_path, "boxes.json", ("car", "bus", "cow"), 0)
    scenes(tmp_path, "new.json", ("tram", "ferry"), 1)
    commands, python = section_of_readme("On your own boxes")
    train, predict, add, evaluate, forget = commands.replace("\\\n", "").splitlines()
    architecture = " ".join(ARCHITECTURE).replace("[4, 8]", "'[4, 8]'")
    said = run_command(train.replace("--detector.weights resnet50.pth", architecture) + QUICK)
    assert "the detector is torchvision's Faster R-CNN" in said
    assert "3 classes learned" in said
    assert "objects on 1 images" in run_command(predict)
    assert json.loads((tmp_path / "found" / "detections.json").read_text())["categories"][1]["name"] == "bus"
    assert "2 new classes" in run_command(add + f" {' '.join(TUNING)}")
    assert "novel" in run_command(evaluate)
    assert "forgot cow" in run_command(forget)
    exec(compile(python, "README.md", "exec"), {})
