"""The recipe on scenes of digits that are named like VOC's classes."""

import json
import sys
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from memreplay.detection.adapter import DetectionAdapter
from memreplay.detection.backbones import small
from memreplay.detection.base import BaseTraining
from memreplay.detection.coco import as_coco
from memreplay.detection.data import DetectionSet
from memreplay.detection.faster_rcnn import FasterRCNN
from memreplay.detection.few_shot import FewShot
from memreplay.detection.prototypes import PrototypeCalibration, Prototypes
from memreplay.detection.recipes import voc_subset
from memreplay.detection.scenes import digit_scenes
from memreplay.detection.tuning import FineTuning

TINY = FasterRCNN(
    "small",
    levels=(4, 8),
    channels=8,
    pool=3,
    head=16,
    regions=16,
    positive=0.5,
    proposals=20,
    min_size=48,
    max_size=48,
)
QUICK = FewShot(
    TINY,
    BaseTraining(steps=2, images=2, warmup=1),
    FineTuning(steps=2, regions=16, replay=8, passes=1),
    PrototypeCalibration("small", min_size=48, max_size=48),
    shots=(1, 2),
    learning_rates=(0.001, 0.01),
    rehearsal=1,
    moments=(1, 2),
    curve_shot=2,
    mixed_precision="bf16",
    pooled=15,
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three base and two novel classes."""
    monkeypatch.setattr(voc_subset, "BASE", ("person", "car", "cat"))
    monkeypatch.setattr(voc_subset, "NOVEL", ("bus", "cow"))
    folder = tmp_path / "data" / "voc_subset"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for name, n in (("train", 24), ("test", 6)):
            scenes = digit_scenes(n, range(5), split=name, size=48)
            named = DetectionSet(["person", "car", "cat", "bus", "cow"], scenes.pictures, scenes.files)
            (folder / f"{name}.json").write_text(json.dumps(as_coco(named)))
            for i, picture in enumerate(named.pictures):
                file = BytesIO()
                Image.fromarray(named.image(i).permute(1, 2, 0).numpy()).save(file, "PNG")
                archive.writestr(picture.name, file.getvalue())
    (tmp_path / "data" / "weights_vision").mkdir()
    weights = tmp_path / "data" / "weights_vision" / "mobilenet_v2_imagenet_features.safetensors"
    torch.manual_seed(0)
    save_file(small().state_dict(), weights)
    return tmp_path / "data"


def test_table_and_that_nothing_is_done_twice(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = ("finetune", "replay", "replay, shuffled labels", "tfa, prototypes", "curves")
    looked: list[int] = []
    learn = Prototypes.learn
    monkeypatch.setattr(Prototypes, "learn", lambda self, few: looked.append(len(few)) or learn(self, few))
    found = voc_subset.reproduce(seeds=2, data=data, out=tmp_path / "out", only=only, plan=QUICK)
    names = {row.name for row in found.rows}
    assert names == {
        "base detector",
        *(f"{name}, {shot} shot" for name in only[:4] for shot in (1, 2)),
        *(f"{name}, 2 shot, {step} steps" for name in only[:2] for step in (1, 2)),
    }
    row = next(row for row in found.rows if (row.name, row.metric) == ("replay, 2 shot", "novel AP50"))
    assert row.seeds == 2
    assert found.memory_bytes > 0
    assert len(looked) == 2 * 2 + 2  # one row, two numbers of boxes, two seeds; two learning rates
    assert (tmp_path / "out" / "results.json").is_file()
    monkeypatch.setattr(FineTuning, "tune", None)
    monkeypatch.setattr(BaseTraining, "train", None)
    again = voc_subset.reproduce(seeds=2, data=data, out=tmp_path / "out", only=only, plan=QUICK)
    assert [(r.name, r.metric, r.ours) for r in again.rows] == [(r.name, r.metric, r.ours) for r in found.rows]


@pytest.mark.skipif(not find_spec("detectron2"), reason="detectron2 is not installed; it is on no package index")
def test_detectron2_learns_from_the_same_detector_and_boxes(data: Path, tmp_path: Path) -> None:
    out, rehearsal = tmp_path / "out", voc_subset.CARRIED
    base = BaseTraining(steps=60, images=4, lr=0.003, optimizer="adamw", warmup=5)
    plan = replace(QUICK, detector=replace(TINY, anchor=12), base=base, learning_rates=(0.01,), mixed_precision="no")
    found = voc_subset.reproduce(seeds=1, data=data, out=out, only=("detectron2",), plan=plan)
    rows = {(row.name, row.metric): row.ours for row in found.rows}
    names = [f"detectron2: {name}" for name in ("base detector", *(f"{method}, 1 shot" for method in rehearsal))]
    assert {name for name, _ in rows} == {"base detector", *names}
    assert rows["base detector", "base AP50"] > 1
    assert rows["detectron2: base detector", "base AP50"] == pytest.approx(rows["base detector", "base AP50"], abs=0.5)
    for name in names:
        for group in ("base",) if name == names[0] else ("base", "novel", "all"):
            ours, theirs = (rows[name, f"{group} {metric}"] for metric in ("AP", "AP by detectron2"))
            assert ours == pytest.approx(theirs, abs=1e-6)
    assert found.config["learning_rates"]["detectron2: tfa"] == 0.01
    assert type(DetectionAdapter.load(out / "detectron2" / "base").detector).__name__ == "Detectron2Detector"
    named = voc_subset.reproduce(seeds=1, data=data, out=out, only=("detectron2", "replay"), plan=plan)
    assert {row.name for row in named.rows} == {
        *("base detector", "replay, 1 shot", "replay, 2 shot"),
        *("detectron2: base detector", "detectron2: replay, 1 shot"),
    }
    one, other = (out / folder / "shots" / "1-0.json" for folder in (".", "detectron2"))
    assert one.read_text() == other.read_text()


def test_without_weights_there_are_no_prototypes(data: Path, tmp_path: Path) -> None:
    (data / "weights_vision" / "mobilenet_v2_imagenet_features.safetensors").unlink()
    plan = replace(QUICK, shots=(1,), learning_rates=(0.001,))
    with pytest.raises(ValueError, match="only is 'tfa, prototypes', and there are no weights for the classifier"):
        voc_subset.reproduce(seeds=1, data=data, out=tmp_path / "out", only=("tfa, prototypes",), plan=plan)
    assert voc_subset.PLAN.weighted(None).calibration is None


def test_detectron2_is_asked_for_but_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(ValueError, match="only is 'detectron2', which is not installed"):
        voc_subset.reproduce(seeds=1, data=None, out=tmp_path, only=("detectron2",))


def test_mistakes(tmp_path: Path) -> None:
    for options, expected in (
        ({"seeds": 0, "data": tmp_path, "only": ()}, "seeds is 0"),
        ({"seeds": 1, "data": tmp_path, "only": ()}, "expected a folder with voc_subset/train.json"),
        ({"seeds": 1, "data": None, "only": ("er",)}, "only is 'er'; expected one of detectron2, base, curves"),
    ):
        with pytest.raises(ValueError, match=expected):
            voc_subset.reproduce(out=tmp_path / "out", **options)  # type: ignore[arg-type]
