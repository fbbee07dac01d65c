"""The recipes for Pascal VOC and COCO at full size, on a handful of scenes of digits in the layouts of these data."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from memreplay.detection.backbones import small
from memreplay.detection.base import BaseTraining
from memreplay.detection.coco import as_coco
from memreplay.detection.data import DetectionSet
from memreplay.detection.few_shot import FewShot
from memreplay.detection.prototypes import PrototypeCalibration
from memreplay.detection.recipes import coco, voc
from memreplay.detection.scenes import digit_scenes
from memreplay.detection.tuning import FineTuning

from ..conftest import TINY

QUICK = FewShot(
    TINY,
    BaseTraining(steps=1, images=2, warmup=1),
    FineTuning(steps=1, regions=16, replay=8, passes=1),
    shots=(1,),
    learning_rates=(0.001, 0.01),
    rehearsal=1,
    moments=(1,),
    curve_shot=1,
)


def scenes(classes: tuple[str, ...], n: int, split: str) -> DetectionSet:
    made = digit_scenes(n, range(5), split=split, size=48)
    return DetectionSet(classes, made.pictures, made.files)


def image(data: DetectionSet, index: int) -> bytes:
    file = BytesIO()
    Image.fromarray(data.image(index).permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def as_voc(root: Path, data: DetectionSet, split: str) -> None:
    year, _, name = split.partition("/")
    folder = root / f"VOC{year}"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    names = [f"{year}{name}{number}" for number in range(len(data))]
    (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(names))
    for number, stem in enumerate(names):
        picture = data.pictures[number]
        objects = ""
        for label, (x1, y1, x2, y2) in zip(picture.labels.tolist(), picture.boxes.tolist(), strict=True):
            corners = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            objects += f"<object><name>{data.classes[label]}</name><bndbox>{corners}</bndbox></object>"
        size = "<size><width>48</width><height>48</height></size>"
        (folder / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
        (folder / "JPEGImages" / f"{stem}.jpg").write_bytes(image(data, number))


def first_with(data: DetectionSet, name: str) -> int:
    label = data.classes.index(name)
    return next(number for number, picture in enumerate(data.pictures) if label in picture.labels)


def test_voc_with_published_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voc, "SPLITS", {1: ("bird", "bus"), 2: ("cat", "bus")})
    classes = ("bird", "bus", "car", "cat", "person")
    (tmp_path / "vocsplit" / "seed1").mkdir(parents=True)
    listed = {}
    for split, n in (("2007/trainval", 12), ("2012/trainval", 8), ("2007/test", 4)):
        data = scenes(classes, n, "test" if "test" in split else "train")
        as_voc(tmp_path, data, split)
        if split == "2007/trainval":
            for name in ("bird", "bus"):
                listed[name] = f"VOC2007/JPEGImages/2007trainval{first_with(data, name)}.jpg"
                for seed in ("", "seed1/"):
                    (tmp_path / "vocsplit" / f"{seed}box_1shot_{name}_train.txt").write_text(f"x/{listed[name]}\n")
    torch.save(small().state_dict(), tmp_path / "resnet101.pth")
    calibration = PrototypeCalibration("small", min_size=48, max_size=48)
    options = {"data": tmp_path, "out": tmp_path / "out", "plan": replace(QUICK, voc=True, calibration=calibration)}
    found = voc.reproduce(seeds=2, only=("split-1", "tfa", "replay", "tfa, prototypes"), **options)  # type: ignore[arg-type]
    rows = {(row.name, row.metric): row for row in found.rows}
    names = ("base detector", "tfa, 1 shot", "replay, 1 shot", "tfa, prototypes, 1 shot")
    assert {name for name, _ in rows} == {f"split-1, {name}" for name in names}
    assert rows["split-1, tfa, 1 shot", "novel VOC AP50"].published == 25.3
    assert rows["split-1, base detector", "base VOC AP50"].published == 80.8
    assert rows["split-1, replay, 1 shot", "all AP50"].seeds == 2
    drawn = json.loads((tmp_path / "out" / "split-1" / "shots" / "1-1.json").read_text())
    assert {name: boxes[0][0] for name, boxes in drawn["boxes"].items()} == listed
    with pytest.raises(ValueError, match="only is 'split-4'; expected one of split-1, split-2, base"):
        voc.reproduce(seeds=1, only=("split-4",), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a folder with VOC2007"):
        voc.reproduce(seeds=1, data=tmp_path / "out", out=tmp_path, only=())


def test_coco_with_published_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "NOVEL", ("person", "couch"))
    classes = ("person", "zebra", "couch", "kite", "fork")
    for name in ("annotations", "images", "cocosplit"):
        (tmp_path / name).mkdir()
    for part, n in (("trainvalno5k", 12), ("5k", 4)):
        data = scenes(classes, n, "test" if part == "5k" else "train")
        (tmp_path / "annotations" / f"{part}.json").write_text(json.dumps(as_coco(data)))
        for number, picture in enumerate(data.pictures):
            (tmp_path / "images" / picture.name).write_bytes(image(data, number))
        if part != "5k":
            for name, listed in (("person", "person"), ("couch", "sofa")):
                line = f"/some/where/{data.pictures[first_with(data, name)].name}\n"
                (tmp_path / "cocosplit" / f"full_box_1shot_{listed}_trainval.txt").write_text(line)
    options = {"data": tmp_path, "out": tmp_path / "out", "plan": QUICK}
    found = coco.reproduce(seeds=None, only=("finetune", "curves"), **options)  # type: ignore[arg-type]
    rows = {(row.name, row.metric): row for row in found.rows}
    assert rows["base detector", "base AP"].published == 39.2
    assert rows["finetune, 1 shot", "novel AP"].seeds == 1
    assert ("replay, 1 shot, 1 steps", "novel AP50") in rows
    with pytest.raises(ValueError, match="expected 1, as there is one list"):
        coco.reproduce(seeds=2, only=(), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected a folder with annotations/trainvalno5k\.json"):
        coco.reproduce(seeds=1, data=None, out=tmp_path, only=())


def test_published_figures() -> None:
    assert voc.published(2)["tfa, 10 shot", "novel VOC AP50"] == 39.5
    assert voc.published(1)["gaussian, 3 shot", "all VOC AP50"] == 76.7
    assert coco.published()["tfa, 30 shot", "base AP"] == 34.2
    assert len(coco.NOVEL) == 20
    assert not {"aeroplane", "sofa"} & set(coco.NOVEL)


def test_plans_are_of_the_published_architecture() -> None:
    for plan in (voc.PLAN, coco.PLAN):
        assert plan.detector.backbone == "resnet101"
        assert (plan.detector.min_size, plan.detector.max_size) == (800, 1333)
        assert plan.detector.channels == 256
        assert plan.calibration == PrototypeCalibration("resnet101")
