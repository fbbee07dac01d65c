import json
import zipfile
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memreplay.core.mixers import RandomAffine
from memreplay.vision_cls import Conv4
from memreplay.vision_cls.data.omniglot import RUNS
from memreplay.vision_cls.episodic import ProtoNet, Views
from memreplay.vision_cls.recipes import omniglot


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Characters that are a random pattern each, drawn with a few wrong dots: two small sets with one alphabet in
    common, and 20 runs of 20 characters.
    """
    draw = np.random.default_rng(0)

    def character() -> np.ndarray:
        return draw.random((4, 4)) < 0.5

    def drawing(pattern: np.ndarray) -> bytes:
        ink = np.kron(pattern, np.ones((3, 3))) != (draw.random((12, 12)) < 0.1)
        file = BytesIO()
        Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).save(file, "png")
        return file.getvalue()

    alphabets = {name: [character() for _ in range(size)] for name, size in {"A": 2, "B": 20, "C": 20}.items()}
    for part, names in {"small1": "AB", "small2": "AC"}.items():
        with zipfile.ZipFile(tmp_path / f"images_background_{part}.zip", "w") as archive:
            for name in names:
                for number, pattern in enumerate(alphabets[name]):
                    for drawer in range(20):
                        path = f"images_background_{part}/{name}/character{number:02d}/{drawer:02d}.png"
                        archive.writestr(path, drawing(pattern))
    with zipfile.ZipFile(tmp_path / "all_runs.zip", "w") as archive:
        for run in (f"run{number + 1:02d}" for number in range(RUNS)):
            pairs = []
            for number in range(20):
                pattern = character()
                shown, asked = f"{run}/training/class{number + 1:02d}.png", f"{run}/test/item{number + 1:02d}.png"
                archive.writestr(shown, drawing(pattern))
                archive.writestr(asked, drawing(pattern))
                pairs.append(f"{asked} {shown}\n")
            archive.writestr(f"{run}/class_labels.txt", "".join(pairs))
    return tmp_path


def test_the_table(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omniglot, "TRAININGS", {"protonet": ProtoNet(way=8, query=1, episodes=2)})
    monkeypatch.setattr(omniglot, "VIEWS", Views(1, RandomAffine(1.0)))
    monkeypatch.setattr(omniglot, "EPISODES", 3)
    monkeypatch.setattr(omniglot, "Conv4", partial(Conv4, width=8))
    results = omniglot.reproduce(data=data, out=tmp_path / "out", only=["pixels", "protonet"])
    rows = {(row.name, row.metric): row for row in results.rows}
    errors = [rows[f"{name}, small1", "error in the 20 runs"] for name in ("pixels", "protonet", "protonet + views")]
    assert [row.seeds for row in errors] == [20, 20, 20]
    assert errors[0].ours < 20
    both = [rows[f"protonet, {part}", "error in the 20 runs"].ours for part in ("small1", "small2")]
    assert rows["protonet, mean of both", "error in the 20 runs"].ours == pytest.approx(sum(both) / 2)
    assert {metric for name, metric in rows if name == "pixels, small2"} == {
        "error in the 20 runs", "5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot",
    }  # fmt: skip
    again = omniglot.reproduce(data=data, out=tmp_path / "out", only=["protonet-small2"])
    assert again.rows == [row for row in results.rows if row.name.startswith("proto") and "small2" in row.name]
    assert json.loads((tmp_path / "out" / "results.json").read_text())["recipe"] == "vision_cls/omniglot"


def test_novel_alphabets_are_those_of_the_other_set(data: Path) -> None:
    assert {name.partition("/")[0] for name in omniglot._novel("small1", data).classes} == {"C"}
    assert {name.partition("/")[0] for name in omniglot._novel("small2", data).classes} == {"B"}


def test_unknown_method(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only is 'proto'; expected one of pixels, protonet"):
        omniglot.reproduce(out=tmp_path, only=["proto"])
