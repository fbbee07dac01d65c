"""The verbs, as a user runs them."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from memreplay.cli import main
from memreplay.core.reporting.cases import Case, save_cases
from memreplay.detection.adapter import DetectionAdapter
from memreplay.detection.backbones import small
from memreplay.detection.coco import Coco, as_coco
from memreplay.detection.scenes import digit_scenes

ARCHITECTURE = [
    *("--detector.backbone", "small", "--detector.levels", "[4, 8]", "--detector.channels", "8"),
    *("--detector.pool", "3", "--detector.head", "16", "--detector.regions", "16", "--detector.positive", "0.5"),
    *("--detector.proposals", "20", "--detector.min_size", "48", "--detector.max_size", "48"),
    *("--detector.anchor", "12", "--detector.ratios", "[1.0]"),
]
TUNING = ["--tuning.steps", "2", "--tuning.regions", "16", "--tuning.replay", "8", "--tuning.passes", "1"]


def coco(folder: Path, n: int = 10, digits: tuple[int, ...] = (0, 1, 2), seed: int = 0) -> list[str]:
    """Scenes as files, and how to name them."""
    scenes = digit_scenes(n, digits, size=48, seed=seed)
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(scenes.pictures):
        Image.fromarray(scenes.image(number).permute(1, 2, 0).numpy()).save(folder / picture.name)
    (folder / "boxes.json").write_text(json.dumps(as_coco(scenes)))
    return ["Coco", str(folder / "boxes.json")]


def data(option: str, named: list[str]) -> list[str]:
    return [f"--{option}", named[0], f"--{option}.annotations", named[1]]


def trained(folder: Path, *options: str) -> Path:
    named = coco(folder / "images")
    base = ["--base.steps", "2", "--base.images", "2", "--objects", "20", "--background", "10"]
    out = ["--out", str(folder / "adapter")]
    main(
        [
            "detection",
            "train",
            *data("data", named),
            *data("test", named),
            *ARCHITECTURE,
            *base,
            *TUNING,
            *out,
            *options,
        ]
    )
    return folder / "adapter"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two base digits and a novel one."""
    return trained(tmp_path_factory.mktemp("run"), "--novel", "['2']", "--shot", "2")


def test_train_learns_first_and_then_from_shots(adapter: Path) -> None:
    loaded = DetectionAdapter.load(adapter)
    assert loaded.names == {0: "0", 1: "1", 2: "2"}
    assert loaded.base == ["0", "1"]
    assert loaded.memory is not None
    assert set(loaded.memory.summary()["classes"]) == {0, 1, 2}
    found = json.loads((adapter / "results.json").read_text())
    names = {row["name"] for row in found["rows"]}
    assert {"first classes, base", "all classes, base", "all classes, novel", "all classes, all"} <= names
    assert found["config"]["shot"] == 2
    assert json.loads((adapter / "shots.json").read_text())["digest"] == found["config"]["shots"]
    assert found["memory_bytes"] == loaded.memory.nbytes


def test_a_saved_adapter_finds_what_it_found(adapter: Path, tmp_path: Path) -> None:
    one = DetectionAdapter.load(adapter)
    one.save(tmp_path)
    other = DetectionAdapter.load(tmp_path)
    images = [digit_scenes(1, [0, 1], size=48).image(0)]
    for loaded in (one, other):
        loaded.detector.heads.score_thresh = 0.0
    a, b = one.predict(images)[0], other.predict(images)[0]
    assert len(a.labels)
    assert torch.equal(a.boxes, b.boxes)
    assert torch.equal(a.scores, b.scores)


def test_evaluate(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = coco(tmp_path / "images", digits=(1, 2, 7), seed=5)
    main(["detection", "evaluate", "--adapter", str(adapter), *data("data", named), "--out", str(tmp_path / "out")])
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert {row["name"] for row in rows} == {"1", "2", "base", "novel", "all"}
    assert {row["metric"] for row in rows} == {"AP", "AP50", "AP75"}
    assert "novel" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["detection", "evaluate", "--adapter", str(adapter), *data("data", coco(tmp_path / "other", digits=(7,)))])
    assert "data has the classes 7; the adapter has 0, 1, 2" in capsys.readouterr().err


def test_predict_writes_coco_and_pictures(adapter: Path, tmp_path: Path) -> None:
    coco(tmp_path / "images", n=3)
    out = tmp_path / "found"
    main(
        [
            "detection",
            "predict",
            "--adapter",
            str(adapter),
            "--images",
            str(tmp_path / "images"),
            "--score",
            "0.06",
            "--out",
            str(out),
        ]
    )
    found = json.loads((out / "detections.json").read_text())
    assert len(found["images"]) == 3
    assert [category["name"] for category in found["categories"]] == ["0", "1", "2"]
    assert all(category["remembered"] > 0 for category in found["categories"])
    assert found["annotations"]
    assert all(0.06 <= box["score"] <= 1 for box in found["annotations"])
    assert len(list((out / "pictures").glob("*.png"))) == 3
    # it can be read as a data set
    read = Coco(out / "detections.json", tmp_path / "images").load()
    assert sum(read.counts().values()) == len(found["annotations"])


def test_add_classes_and_forget(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = coco(tmp_path / "images", digits=(7, 8), seed=3)
    out = tmp_path / "more"
    added = ["--adapter", str(adapter), *data("data", named), "--shot", "2", *TUNING, "--out", str(out)]
    main(["detection", "add-classes", *added])
    assert re.search(r"2 new classes from 4 boxes in [\d.]+ s, 5 in all", capsys.readouterr().out)
    loaded = DetectionAdapter.load(out)
    assert loaded.names == {0: "0", 1: "1", 2: "2", 3: "7", 4: "8"}
    assert set(loaded.memory.summary()["classes"]) == {0, 1, 2, 3, 4}  # type: ignore[union-attr]
    save_cases([Case("1.png", None, "1", "1", 0.9, {})], out)
    main(["detection", "forget", "--adapter", str(out), "--label", "1"])
    assert not (out / "evidence.json").exists()
    assert re.search(r"forgot 1 and \d+ regions of the memory; 4 classes are left", capsys.readouterr().out)
    loaded = DetectionAdapter.load(out)
    assert loaded.names == {0: "0", 2: "2", 3: "7", 4: "8"}
    assert loaded.base == ["0"]
    loaded.detector.heads.score_thresh = 0.0
    assert 1 not in loaded.predict([digit_scenes(1, [1], size=48).image(0)])[0].labels
    # what was forgotten stays so when more is learned, and numbers are not given again
    one = coco(tmp_path / "one", digits=(1,), seed=4)
    main(["detection", "add-classes", "--adapter", str(out), *data("data", one), "--shot", "1", *TUNING])
    assert DetectionAdapter.load(out).names == {0: "0", 2: "2", 3: "7", 4: "8", 5: "1"}
    with pytest.raises(SystemExit):
        main(["detection", "forget", "--adapter", str(out), "--label", "yeti"])
    assert "label is 'yeti'; expected one of the classes" in capsys.readouterr().err


def test_add_classes_with_prototypes(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(small().state_dict(), tmp_path / "small.safetensors")
    calibration = [
        "backbone",
        "small",
        "min_size",
        "48",
        "max_size",
        "48",
        "weights",
        str(tmp_path / "small.safetensors"),
    ]
    options = [*calibration[:-1], str(tmp_path / "nothing.pth")], calibration
    out = tmp_path / "more"
    for chosen in options:
        named = [f"--tuning.calibration.{x}" if i % 2 == 0 else x for i, x in enumerate(chosen)]
        images = data("data", coco(tmp_path / "images", digits=(7,), seed=3))
        added = ["detection", "add-classes", "--adapter", str(adapter), *images, *TUNING, *named, "--out", str(out)]
        if chosen == calibration:
            main(added)
        else:
            with pytest.raises(SystemExit):
                main(added)
            assert "nothing.pth" in capsys.readouterr().err
            assert not out.exists()
    held = DetectionAdapter.load(out).detector.prototypes
    assert held is not None
    assert held.counts.tolist()[:3] == [0, 0, 0]
    assert held.counts[3] > 2


def test_a_mistake_leaves_the_adapter_as_it_was(adapter: Path) -> None:
    loaded = DetectionAdapter.load(adapter)
    loaded.memory.fingerprint = "another"  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="the memory is of the backbone and pooler another"):
        loaded.add_classes(digit_scenes(3, [7], size=48))
    assert loaded.classes == ["0", "1", "2"]
    assert loaded.detector.classes == 3
    with pytest.raises(ValueError, match=r"data has no box of '\d'"):
        loaded.add_classes(digit_scenes(1, [9, 8], size=48, objects=1))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--written", "throughout"], {"0", "1", "2"}),
        (["--novel", "['2']", "--tuning.method", "gaussian"], {"0", "1", "2"}),
        (["--novel", "['2']", "--tuning.method", "tfa", "--mixed_precision", "bf16"], {"0", "1", "2"}),
    ],
)
def test_other_ways_to_train(options: list[str], expected: set[str], tmp_path: Path) -> None:
    loaded = DetectionAdapter.load(trained(tmp_path, *options))
    assert set(loaded.classes) == expected


def test_mistakes_cost_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, expected in (
        (["--novel", "['2']", "--shot", "99"], "boxes; expected at least shot = 99"),
        (["--novel", "['x']"], "novel has 'x'; expected some of 0, 1, 2"),
        (["--tuning.method", "repaly"], "did you mean replay?"),
        (["--detector.backbone", "resnet5000"], "backbone is 'resnet5000'"),
        (["--detector.levels", "[4, 64]"], "small has the strides [2, 4, 8, 16]"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            trained(tmp_path, *options)
        assert ended.value.code == 2
        assert expected in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="holds no save"):
        DetectionAdapter.load(tmp_path / "images")
