import math

import pytest
import torch

from memreplay.detection.data import DetectionSet, ImagesInMemory, Picture
from memreplay.detection.detections import Detections
from memreplay.detection.evaluation import detect, judge, judge_voc
from memreplay.detection.torchvision_detector import TorchvisionDetector


def truth(*hard: int) -> DetectionSet:
    """Three images with two boxes of class a each, and one with a box of class b."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 40]])
    pictures = []
    for i in range(3):
        marks = torch.tensor([2 * i in hard, 2 * i + 1 in hard])
        pictures.append(Picture(f"{i}", (50, 50), boxes, torch.zeros(2, dtype=torch.int64), marks))
    pictures.append(
        Picture("3", (50, 50), boxes[:1], torch.ones(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool))
    )
    return DetectionSet(["a", "b", "c"], pictures, ImagesInMemory({}))


def perfect(data: DetectionSet, score: float = 0.9) -> list[Detections]:
    return [Detections(p.boxes, torch.full((len(p.boxes),), score), p.labels) for p in data.pictures]


def test_all_found_is_100_percent() -> None:
    data = truth()
    found = judge(data, perfect(data))
    assert found.by_class == {name: dict.fromkeys(("AP", "AP50", "AP75"), pytest.approx(100)) for name in "ab"}
    assert found.groups(["a"]) == {"base": pytest.approx(100), "novel": pytest.approx(100), "all": pytest.approx(100)}
    assert math.isnan(found.mean("AP", ["c"]))


def test_average_precision_by_hand() -> None:
    """Of six boxes four are found, at ranks 1, 3, 4 and 6; a precision counts at all recalls up to where it is
    reached, and is the best from there on."""
    data = truth()
    right, wrong = data.pictures[0].boxes, torch.tensor([[40.0, 0, 50, 10]])
    zero = torch.zeros(3, dtype=torch.int64)
    found = [
        Detections(torch.cat([right, wrong]), torch.tensor([0.9, 0.7, 0.8]), zero),
        Detections(torch.cat([right[:1], wrong]), torch.tensor([0.6, 0.5]), zero[:2]),
        Detections(right[1:], torch.tensor([0.4]), zero[:1]),
        Detections(right[:0], torch.zeros(0), zero[:0]),
    ]
    precisions = [1.0, 0.75, 0.75, 4 / 6, 0.0, 0.0]
    recalls = [i / 100 for i in range(101)]
    expected = sum(precisions[max(0, math.ceil(6 * recall - 1e-9) - 1)] for recall in recalls) / 101
    assert judge(data, found).by_class["a"]["AP50"] == pytest.approx(100 * expected, abs=1e-6)
    assert judge(data, found).by_class["b"]["AP50"] == 0


def test_precision_of_voc_by_hand() -> None:
    """Of six boxes, one of them hard, four are found; a second detection of one is wrong, that of the hard one does not
    count: right, wrong, right, right, wrong, right."""
    data = truth(4)
    one, other = data.pictures[0].boxes[:1], data.pictures[0].boxes[1:]
    wrong = torch.tensor([[40.0, 0, 50, 10]])
    zeros = torch.zeros(4, dtype=torch.int64)
    found = [
        Detections(torch.cat([one, one + 1, other]), torch.tensor([0.9, 0.8, 0.7]), zeros[:3]),
        Detections(torch.cat([one, wrong]), torch.tensor([0.6, 0.5]), zeros[:2]),
        Detections(torch.cat([one, other]), torch.tensor([0.95, 0.4]), zeros[:2]),
        Detections(one[:0], torch.zeros(0), zeros[:0]),
    ]
    precisions = {0.2: 1.0, 0.4: 0.75, 0.6: 0.75, 0.8: 4 / 6}  # the best at this recall or beyond
    expected = sum(next((p for r, p in precisions.items() if r >= at / 10 - 1e-9), 0.0) for at in range(11)) / 11
    assert judge_voc(data, found).by_class == {
        "a": {"AP50": pytest.approx(100 * expected)},
        "b": {"AP50": 0.0},
    }
    with pytest.raises(ValueError, match="found has 1 entries; expected one for each of 4 images"):
        judge_voc(data, found[:1])


def test_iou_thresholds() -> None:
    data = truth()
    boxes = torch.tensor([[0.0, 0, 10, 6.2]])
    found = [Detections(boxes, torch.ones(1), torch.ones(1, dtype=torch.int64)) for _ in data.pictures]
    found[:3] = [Detections(boxes[:0], torch.zeros(0), torch.zeros(0, dtype=torch.int64))] * 3
    scores = judge(data, found).by_class["b"]
    assert scores == {"AP50": pytest.approx(100), "AP75": 0, "AP": pytest.approx(30)}  # IoU 0.62 passes 0.5, 0.55, 0.6


def test_hard_boxes_do_not_count_found_or_not() -> None:
    data = truth(0, 3)
    everything = judge(data, perfect(data))
    without = [
        Detections(d.boxes[~p.hard], d.scores[~p.hard], d.labels[~p.hard])
        for d, p in zip(perfect(data), data.pictures, strict=True)
    ]
    assert everything.by_class == judge(data, without).by_class
    assert everything.by_class["a"]["AP"] == pytest.approx(100)


def test_nothing_found_and_mistakes() -> None:
    data = truth()
    nothing = [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))] * 4
    assert judge(data, nothing).mean("AP") == 0
    with pytest.raises(ValueError, match="found has 3 entries; expected one for each of 4 images"):
        judge(data, nothing[:3])
    with pytest.raises(ValueError, match="metric is 'AP95'"):
        judge(data, nothing).mean("AP95")


def test_evaluator_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    data = truth()
    judge(data, perfect(data))
    assert capsys.readouterr().out == ""


def test_detect_is_independent_of_batches(detector: TorchvisionDetector, scenes: DetectionSet) -> None:
    detector.heads.score_thresh = 0.0
    one, many = detect(detector, scenes, 1), detect(detector, scenes, 8)
    assert len(one) == len(scenes)
    assert all(torch.allclose(a.boxes, b.boxes, atol=1e-3) for a, b in zip(one, many, strict=True))
    assert all((a.scores.diff() <= 0).all() for a in one)
