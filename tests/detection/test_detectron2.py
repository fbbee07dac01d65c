"""The adapter for detectron2, where it is installed."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from memreplay.cli import main
from memreplay.detection.adapter import DetectionAdapter
from memreplay.detection.data import DetectionSet
from memreplay.detection.detections import Detections
from memreplay.detection.evaluation import detect, judge, judge_voc
from memreplay.detection.memory import ROIMemory
from memreplay.detection.regions import extract, fill
from memreplay.detection.scenes import digit_scenes
from memreplay.detection.torchvision_detector import TorchvisionDetector
from memreplay.detection.tuning import METHODS, FineTuning

from .conftest import TINY, batch_of
from .test_verbs import TUNING, coco, data, trained

pytest.importorskip("detectron2", reason="detectron2 is not installed; it is on no package index")

from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.utils.events import EventStorage, get_event_storage

from memreplay.detection.detectron2 import Detectron2Detector, ROIMemoryHeads, evaluation, read_checkpoint
from memreplay.detection.detectron2.checkpoint import load_checkpoint

YAML = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  BACKBONE: {NAME: build_resnet_fpn_backbone, FREEZE_AT: 0}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res2, res3, res4, res5]}
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 8}
  ANCHOR_GENERATOR: {SIZES: [[8], [16], [32], [64], [128]]}
  RPN: {IN_FEATURES: [p2, p3, p4, p5, p6], POST_NMS_TOPK_TRAIN: 40, POST_NMS_TOPK_TEST: 20}
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [p2, p3, p4, p5], BATCH_SIZE_PER_IMAGE: 16}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 16, POOLER_RESOLUTION: 3}
INPUT: {MIN_SIZE_TEST: 48, MAX_SIZE_TEST: 96}
"""


@pytest.fixture(scope="module")
def yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "model.yaml"
    path.write_text(YAML)
    return path


@pytest.fixture(scope="module")
def _made(yaml: Path) -> Detectron2Detector:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Detectron2Detector.of_yaml(yaml, 3)


@pytest.fixture
def made(_made: Detectron2Detector) -> Detectron2Detector:
    """For three classes; random weights."""
    return copy.deepcopy(_made)


def stock(yaml: Path, weights: dict[str, Tensor], name: str = "StandardROIHeads") -> Any:
    """detectron2's own model."""
    config = get_cfg()
    config.merge_from_file(str(yaml))
    config.MODEL.DEVICE = "cpu"
    config.MODEL.ROI_HEADS.NAME = name
    config.MODEL.ROI_HEADS.NUM_CLASSES = 3
    model = build_model(config)
    model.load_state_dict(weights)
    return model


def test_losses_and_gradients_are_those_of_the_standard_heads(
    made: Detectron2Detector, yaml: Path, scenes: DetectionSet
) -> None:
    plain = stock(yaml, made.model.state_dict())
    assert type(plain.roi_heads) is StandardROIHeads
    inputs = made._inputs(batch_of(scenes, 0, 1, 2))
    made.model.train()
    plain.train()
    noted = []
    found = []
    for model in (made.model, plain):
        torch.manual_seed(0)
        with EventStorage() as storage:
            losses = model(inputs)
            noted.append(dict(storage.latest()))
        sum(losses.values()).backward()
        found.append(losses)
    assert {n: float(v) for n, v in found[0].items()} == {n: float(v) for n, v in found[1].items()}
    assert noted[0] == noted[1]
    for one, other in zip(made.model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_heads_are_in_the_registry_and_in_yacs(made: Detectron2Detector, yaml: Path) -> None:
    assert ROI_HEADS_REGISTRY.get("ROIMemoryHeads") is ROIMemoryHeads
    assert isinstance(stock(yaml, made.model.state_dict(), "ROIMemoryHeads").roi_heads, ROIMemoryHeads)


def test_standard_heads_become_ours(made: Detectron2Detector, yaml: Path, scenes: DetectionSet) -> None:
    other = Detectron2Detector(stock(yaml, made.model.state_dict()), 48, 96)
    assert isinstance(other.heads, ROIMemoryHeads)
    assert other.fingerprint() == made.fingerprint()
    assert torch.equal(extract(other, scenes)["logits"], extract(made, scenes)["logits"])


def test_a_loop_of_detectron2_gets_replay_by_giving_the_heads_a_memory(
    made: Detectron2Detector, scenes: DetectionSet
) -> None:
    memory = fill(ROIMemory.of_rows(20, 10, logits=True), extract(made, scenes))
    inputs = made._inputs(batch_of(scenes, 0, 1))
    made.model.train()
    torch.manual_seed(0)
    with EventStorage() as storage:
        before = made.model(inputs)
        noted = dict(storage.latest())
    made.heads.memory, made.heads.replay = memory, 8
    torch.manual_seed(0)
    with EventStorage() as storage:
        after = made.model(inputs)
        assert dict(storage.latest()) == noted
    assert set(after) - set(before) == {"loss_cls_replay", "loss_box_reg_replay"}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    sum(after.values()).backward()


def test_storage_of_events_is_inside(made: Detectron2Detector, scenes: DetectionSet) -> None:
    made.train()
    made(batch_of(scenes, 0))
    with pytest.raises(AssertionError):
        get_event_storage()


def test_recalled_regions_have_the_losses_of_the_predictor(made: Detectron2Detector, scenes: DetectionSet) -> None:
    made.train()
    found = made(batch_of(scenes, 0, 3))
    rows = found["rows"]
    assert rows["source"].unique().tolist() == [0, 3]
    assert set(rows["label"].tolist()) <= {-1, 0, 1, 2}
    again = made.judge(rows)
    for name in ("loss_cls", "loss_box"):
        assert torch.allclose(again[name][0], found["outputs"][name][0], rtol=1e-5)
    expected = torch.nn.functional.cross_entropy(rows["logits"], rows["label"] + 1)
    assert torch.allclose(again["loss_cls"][0], expected, rtol=1e-5)
    assert set(made.judge({"feature": rows["feature"], "label": rows["label"]})) == {"logits", "loss_cls"}


def test_growing_moves_the_background_but_not_the_classes(made: Detectron2Detector, scenes: DetectionSet) -> None:
    rows = extract(made, scenes)
    before = made.judge(rows)["logits"]
    made.grow(2, torch.Generator().manual_seed(0))
    assert made.classes == 5
    after = made.judge(rows)["logits"]
    assert torch.allclose(after[:, :4], before, atol=1e-6)
    made.train()
    made(batch_of(scenes, 0))
    made.drop(1)
    assert (made.judge(rows)["logits"].softmax(1)[:, 2] == 0).all()
    assert len(detect(made, scenes)) == len(scenes)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_methods(method: str, cached: bool, made: Detectron2Detector, scenes: DetectionSet) -> None:
    tuning = FineTuning(method, steps=2, cached=cached, images=2, regions=16, replay=8, passes=1)  # type: ignore[arg-type]
    memory = tuning.new_memory(20, 10, fingerprint=made.fingerprint())
    if memory is not None:
        fill(memory, extract(made, scenes.of(["0", "1"])))
    before = {name: values.clone() for name, values in made.named_parameters()}
    tuning.tune(made, scenes, memory, progress_bar=False)
    changed = {name for name, values in made.named_parameters() if not torch.equal(values, before[name])}
    assert changed
    assert all("box_head" in name or "box_predictor" in name for name in changed)


def test_a_memory_of_the_other_library_is_refused(
    made: Detectron2Detector, detector: TorchvisionDetector, scenes: DetectionSet
) -> None:
    tuning = FineTuning(steps=1)
    memory = tuning.new_memory(20, 10, fingerprint=detector.fingerprint())
    assert memory is not None
    fill(memory, extract(detector, scenes))
    with pytest.raises(ValueError, match="the memory is of the backbone and pooler"):
        tuning.tune(made, scenes, memory)


def test_boxes_come_back_in_pixels_of_the_image(made: Detectron2Detector, scenes: DetectionSet) -> None:
    image = scenes.image(0).repeat(1, 2, 3)[:, :, :130]  # 96 x 130, to be resized to 48 x 65
    found = made.detect([image])[0]
    assert found.boxes.max() > 65
    assert (found.boxes[:, 2] <= 130).all()
    assert (found.boxes[:, 3] <= 96).all()
    inputs = made._inputs(
        {"image": [image], "boxes": [torch.tensor([[0.0, 0, 130, 96]])], "label": [torch.zeros(1)], "id": []}
    )
    assert inputs[0]["image"].shape == (3, 48, 65)
    assert inputs[0]["instances"].gt_boxes.tensor.tolist() == [[0, 0, 65, 48]]


def test_what_is_found_is_what_detectron2_finds(made: Detectron2Detector, yaml: Path, scenes: DetectionSet) -> None:
    plain = stock(yaml, made.model.state_dict()).eval()
    images = [scenes.image(0), scenes.image(1)[:, :32], scenes.image(2).repeat(1, 2, 3)]  # to be resized, and padded
    found = made.detect(images)
    with torch.no_grad():
        expected = [entry["instances"] for entry in plain(made._inputs({"image": images}))]
    assert sum(len(one.scores) for one in found) > 10
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.boxes, other.pred_boxes.tensor)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.labels, other.pred_classes)


@pytest.mark.parametrize("rounds", [(), (1, 2)])
def test_a_detector_of_torchvision_carried_over_finds_the_same(rounds: tuple[int, ...], scenes: DetectionSet) -> None:
    architecture = replace(TINY, ratios=(0.5, 1.0))
    theirs = architecture.build(3)
    theirs.rounds = rounds
    ours = architecture.carried(theirs)
    assert isinstance(ours, Detectron2Detector)
    theirs.heads.score_thresh = ours.heads.box_predictor.test_score_thresh = 0.2
    images = [scenes.image(0), scenes.image(1)[:, :32]]
    proposed = [detector.propose(images) for detector in (theirs, ours)]
    assert proposed[0].counts == proposed[1].counts
    assert torch.allclose(proposed[0].boxes, proposed[1].boxes, atol=1e-4)
    assert torch.allclose(proposed[0].feature, proposed[1].feature, atol=1e-5)
    found = [detector.find(proposed[0]) for detector in (theirs, ours)]
    assert sum(len(one.scores) for one in found[0]) > 10
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one.scores, other.scores, atol=1e-5)
        assert torch.equal(one.labels, other.labels)
        assert torch.allclose(one.boxes, other.boxes, atol=1e-3)


def test_cosines_are_carried_over(detector: TorchvisionDetector, scenes: DetectionSet) -> None:
    rows = extract(detector, scenes)
    detector.use_cosines()
    detector.drop(1)
    ours = TINY.carried(detector)
    assert ours.cosines
    assert torch.allclose(ours.judge(rows)["logits"], detector.judge(rows)["logits"], atol=1e-5)
    with pytest.raises(ValueError, match="detector is a Detectron2Detector; expected one of torchvision"):
        TINY.carried(ours)


def test_verbs_with_detectron2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = trained(tmp_path, "--detector.backend", "detectron2")
    assert "the detector is detectron2's Faster R-CNN with small" in capsys.readouterr().out
    more = data("data", coco(tmp_path / "more", digits=(0, 3)))
    options = ["--tuning.method", "tfa", "--classes", "['3']", "--shot", "2"]
    main(["detection", "add-classes", "--adapter", str(adapter), *more, *TUNING, *options])
    loaded = DetectionAdapter.load(adapter)
    assert isinstance(loaded.detector, Detectron2Detector)
    assert loaded.classes == ["0", "1", "2", "3"]
    assert loaded.detector.cosines
    main(["detection", "evaluate", "--adapter", str(adapter), *more])
    main(["detection", "forget", "--adapter", str(adapter), "--label", "1"])
    out = ["--out", str(tmp_path / "found")]
    main(["detection", "predict", "--adapter", str(adapter), "--images", str(tmp_path / "more"), *out])


def test_channels_are_ordered_as_the_model_wants_them(made: Detectron2Detector) -> None:
    image = torch.stack([torch.full((48, 48), float(i)) for i in range(3)]) / 255
    assert made.model.input_format == "BGR"
    assert made._inputs({"image": [image]})[0]["image"][:, 0, 0].tolist() == pytest.approx([2, 1, 0])


def test_masks_and_keypoints_are_refused(yaml: Path) -> None:
    with pytest.raises(ValueError, match="has a mask head; expected boxes alone"):
        Detectron2Detector.of_yaml(yaml, 3, options=["MODEL.MASK_ON", "True"])
    with pytest.raises(ValueError, match="has a keypoint head; expected boxes alone"):
        Detectron2Detector.of_yaml(yaml, 3, options=["MODEL.KEYPOINT_ON", "True"])


def test_lazy_config(scenes: DetectionSet) -> None:
    lazy = Detectron2Detector.of_lazy(
        Path(__file__).with_name("lazy_faster_rcnn.py"), 3, options=["model.roi_heads.positive_fraction=0.5"]
    )
    assert isinstance(lazy.heads, ROIMemoryHeads)
    assert lazy.classes == 3
    assert lazy.heads.positive_fraction == 0.5
    lazy.min_size = 48
    lazy.train()
    assert lazy(batch_of(scenes, 0))["rows"]["feature"].shape[1:] == (8, 3, 3)


def zoo(made: Detectron2Detector, **more: object) -> dict[str, object]:
    weights = {name: values.numpy() for name, values in made.model.state_dict().items()}
    return {"model": weights, "__author__": "Detectron2 Model Zoo", **more}


def test_weights_of_the_model_zoo(made: Detectron2Detector, yaml: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(zoo(made)))
    again = Detectron2Detector.of_yaml(yaml, 3, path)
    assert again.fingerprint() == made.fingerprint()
    assert load_checkpoint(again.model, path) == []
    # of another number of classes the predictor alone is left as it was
    other = Detectron2Detector.of_yaml(yaml, 5, path)
    assert other.fingerprint() == made.fingerprint()
    left = load_checkpoint(other.model, path)
    assert left
    assert all("box_predictor" in name for name in left)
    torch.save({"model": made.model.state_dict()}, tmp_path / "model.pth")
    assert load_checkpoint(again.model, tmp_path / "model.pth") == []


def test_names_of_another_library_are_matched(made: Detectron2Detector, tmp_path: Path) -> None:
    """As the ImageNet weights of the zoo have them: without the prefix of the backbone, and marked so."""
    prefix = "backbone.bottom_up."
    weights = {
        n.removeprefix(prefix): v.numpy() + 1 for n, v in made.model.state_dict().items() if n.startswith(prefix)
    }
    path = tmp_path / "r18.pkl"
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "torchvision", "matching_heuristics": True}))
    before = {name: values.clone() for name, values in made.model.state_dict().items()}
    left = load_checkpoint(made.model, path)
    after = made.model.state_dict()
    assert all((name in left) != name.startswith(prefix) for name in before)
    assert all(torch.allclose(after[n], before[n] + 1) for n in before if n.startswith(prefix))


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        import os

        return os.system, ("true",)


def test_files_with_anything_but_weights_are_refused(made: Detectron2Detector, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    for content, expected in (
        (pickle.dumps({"model": {"a": Harmful()}}), r"something other than weights: it holds (posix|nt)\.system"),
        (pickle.dumps({"model": {"a": np.zeros(1, dtype=object)}}), "something other than weights|no weights"),
        (pickle.dumps([1]), "something other than weights"),
        (pickle.dumps({"model": {}}), "holds no weights"),
        (b"nonsense", "something other than weights"),
        (b"", "something other than weights"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=expected):
            read_checkpoint(path)
    path.write_bytes(pickle.dumps({"model": {"a": np.zeros(1)}, "__author__": "x"}))
    with pytest.raises(ValueError, match="holds no weight of this model; it has 'a'"):
        load_checkpoint(made.model, path)


def test_images_without_objects(made: Detectron2Detector, scenes: DetectionSet) -> None:
    batch = batch_of(scenes, 0)
    batch["boxes"], batch["label"] = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
    made.train()
    found = made(batch)
    assert (found["rows"]["label"] == -1).all()
    assert all(values.isfinite().all() for values in found["rows"].values())


def test_its_own_evaluator_finds_the_same_numbers() -> None:
    data = digit_scenes(12, [0, 1, 2], size=48)
    generator = torch.Generator().manual_seed(0)
    found = []
    for picture in data.pictures:
        # every box moved a little, some with a wrong class, and as many anywhere
        boxes = torch.cat(
            [picture.boxes + 3 * torch.randn(picture.boxes.shape, generator=generator), picture.boxes / 2]
        )
        labels = torch.cat([picture.labels, picture.labels.roll(1)])
        found.append(Detections(boxes, torch.rand(len(boxes), generator=generator), labels))
    ours = judge(data, found)
    figures = evaluation.evaluate(data, found)
    assert 5 < ours.mean("AP") < 95
    for metric in ("AP", "AP50", "AP75"):
        assert ours.mean(metric) == pytest.approx(figures[metric], abs=1e-6)
    for label in data.classes:
        assert ours.by_class[label]["AP"] == pytest.approx(figures[f"AP-{label}"], abs=1e-6)
    assert evaluation.judge(data, found).mean("AP", ["0", "2"]) == pytest.approx(ours.mean("AP", ["0", "2"]), abs=1e-6)
    one, nothing = [only.numbered({1: 0}) for only in found], [only.above(2) for only in found]
    for part, theirs in ((data.of(["1"], empty=True), one), (data, nothing)):
        assert evaluation.judge(part, theirs).mean("AP") == pytest.approx(judge(part, theirs).mean("AP"), abs=1e-6)


def test_its_own_evaluator_of_voc_finds_the_same_numbers(tmp_path: Path) -> None:
    from detectron2.evaluation.pascal_voc_evaluation import voc_eval

    data = digit_scenes(12, [0, 1, 2], size=48)
    generator = torch.Generator().manual_seed(0)
    found = []
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "test.txt").write_text("".join(f"{i}\n" for i in range(len(data))))
    for number, picture in enumerate(data.pictures):
        picture.hard[0] = number % 3 == 0
        objects = "".join(
            f"<object><name>{data.classes[label]}</name><difficult>{int(hard)}</difficult>"
            f"<bndbox><xmin>{box[0] + 1:.0f}</xmin><ymin>{box[1] + 1:.0f}</ymin>"
            f"<xmax>{box[2]:.0f}</xmax><ymax>{box[3]:.0f}</ymax></bndbox></object>"
            for box, label, hard in zip(
                picture.boxes.tolist(), picture.labels.tolist(), picture.hard.tolist(), strict=True
            )
        )
        head = "<size><width>48</width><height>48</height></size>"
        objects = objects.replace("<difficult>", "<pose>x</pose><truncated>0</truncated><difficult>")
        (tmp_path / f"{number}.xml").write_text(f"<annotation>{head}{objects}</annotation>")
        moved = picture.boxes + 3 * torch.randn(picture.boxes.shape, generator=generator)
        boxes = torch.cat([moved, moved + 1, picture.boxes / 2]).round(decimals=1)
        labels = torch.cat([picture.labels, picture.labels, picture.labels.roll(1)])
        found.append(Detections(boxes, torch.rand(len(boxes), generator=generator), labels))
    ours = judge_voc(data, found)
    for place, name in enumerate(data.classes):
        lines = [
            f"{number} {score:.6f} {x1 + 1:.1f} {y1 + 1:.1f} {x2:.1f} {y2:.1f}\n"
            for number, one in enumerate(found)
            for (x1, y1, x2, y2), score, label in zip(
                one.boxes.tolist(), one.scores.tolist(), one.labels.tolist(), strict=True
            )
            if label == place
        ]
        (tmp_path / f"{name}.txt").write_text("".join(lines))
        theirs = voc_eval(
            str(tmp_path / "{}.txt"),
            str(tmp_path / "{}.xml"),
            str(tmp_path / "sets" / "test.txt"),
            name,
            ovthresh=0.5,
            use_07_metric=True,
        )[2]
        assert ours.by_class[name]["AP50"] == pytest.approx(100 * theirs, abs=1e-6)
    assert 5 < ours.mean() < 95
