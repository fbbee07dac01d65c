import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection import maskrcnn_resnet50_fpn, retinanet_resnet50_fpn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import box_iou

from memreplay.detection.data import DetectionSet
from memreplay.detection.torchvision_detector import TappedRoIHeads, TorchvisionDetector

from .conftest import TINY, batch_of


def stock(detector: TorchvisionDetector) -> RoIHeads:
    """torchvision's own heads with the same parts."""
    heads = copy.deepcopy(detector.heads)
    heads.__class__ = RoIHeads
    return heads


def test_losses_and_gradients_are_those_of_torchvision(detector: TorchvisionDetector, scenes: DetectionSet) -> None:
    plain = copy.deepcopy(detector.model)
    plain.roi_heads = stock(detector)
    batch = batch_of(scenes, 0, 1, 2)
    detector.train()
    plain.train()
    torch.manual_seed(0)
    outputs = detector(batch)["outputs"]
    torch.manual_seed(0)
    targets = [{"boxes": b, "labels": y + 1} for b, y in zip(batch["boxes"], batch["label"], strict=True)]
    expected = plain([image.float() / 255 for image in batch["image"]], targets)
    assert [float(value[0].detach()) for value in outputs.values()] == [float(v.detach()) for v in expected.values()]
    sum(value.mean() for value in outputs.values()).backward()
    sum(expected.values()).backward()
    gradients = [p.grad for p in detector.model.parameters()]
    assert all(
        torch.allclose(a, b.grad, atol=1e-6)
        for a, b in zip(gradients, plain.parameters(), strict=True)
        if a is not None
    )


def test_rows_are_the_regions_that_were_sampled(detector: TorchvisionDetector, scenes: DetectionSet) -> None:
    batch = batch_of(scenes, 0, 3)
    detector.train()
    rows = detector(batch)["rows"]
    assert rows["source"].unique().tolist() == [0, 3]
    objects = rows["label"] >= 0
    scale = 1  # the scenes have the size that the detector resizes to
    for source in (0, 3):
        own = objects & (rows["source"] == source)
        picture = scenes.pictures[source]
        for target, label in zip(rows["target"][own], rows["label"][own], strict=True):
            assert any(
                torch.equal(target * scale, box) and label == other
                for box, other in zip(picture.boxes, picture.labels, strict=True)
            )
    expected = box_iou(rows["proposal"], rows["target"]).diagonal()
    assert torch.allclose(rows["iou"][objects], expected[objects], atol=1e-5)
    assert (rows["iou"][objects] >= 0.5).all()
    assert torch.equal(rows["target"][~objects], rows["proposal"][~objects])
    assert not any(values.requires_grad for values in rows.values())


def test_recalled_regions_have_the_loss_they_had_when_they_were_new(
    detector: TorchvisionDetector, scenes: DetectionSet
) -> None:
    detector.train()
    found = detector(batch_of(scenes, 0, 1))
    again = detector.judge(found["rows"])
    assert torch.equal(again["logits"], found["rows"]["logits"])
    for name in ("loss_cls", "loss_box"):
        assert torch.allclose(again[name][0], found["outputs"][name][0], rtol=1e-5)
    both = detector(batch_of(scenes, 0), {"replay": found["rows"]})
    assert torch.allclose(both["recalled"]["replay"]["loss_cls"][0], again["loss_cls"][0])


def test_losses_of_recalled_regions_by_hand(detector: TorchvisionDetector, scenes: DetectionSet) -> None:
    rows = detector.regions(batch_of(scenes, 0, 1))
    found = detector.judge(rows)
    described = detector.heads.box_head(rows["feature"])
    logits, deltas = detector.heads.box_predictor(described)
    assert torch.allclose(found["loss_cls"][0], F.cross_entropy(logits, rows["label"] + 1))
    total = torch.zeros(())
    for i in (rows["label"] >= 0).nonzero()[:, 0].tolist():
        (x1, y1, x2, y2), (a1, b1, a2, b2) = rows["proposal"][i], rows["target"][i]
        w, h, goal_w, goal_h = x2 - x1, y2 - y1, a2 - a1, b2 - b1
        wanted = torch.stack(
            [
                10 * ((a1 + a2) / 2 - (x1 + x2) / 2) / w,
                10 * ((b1 + b2) / 2 - (y1 + y2) / 2) / h,
                5 * (goal_w / w).log(),
                5 * (goal_h / h).log(),
            ]
        )
        place = int(rows["label"][i]) + 1
        total = total + F.smooth_l1_loss(deltas[i, 4 * place : 4 * place + 4], wanted, beta=1 / 9, reduction="sum")
    assert torch.allclose(found["loss_box"][0], total / len(rows["label"]), rtol=1e-4)
    without_boxes = detector.judge({"feature": rows["feature"], "label": rows["label"]})
    assert set(without_boxes) == {"logits", "loss_cls"}


def test_extraction_leaves_the_mode_and_is_of_evaluation_mode(
    detector: TorchvisionDetector, scenes: DetectionSet
) -> None:
    detector.train()
    rows = detector.regions(batch_of(scenes, 0))
    assert detector.training
    assert detector.model.rpn.training
    assert not rows["feature"].requires_grad


def test_what_is_found_is_what_torchvision_finds(detector: TorchvisionDetector, scenes: DetectionSet) -> None:
    detector.heads.score_thresh = 0.2
    images = [scenes.image(0), scenes.image(1)[:, :32], scenes.image(2).repeat(1, 2, 3)]  # to be resized, and padded
    detector.train()
    found = detector.detect(images)
    assert detector.model.training
    plain = detector.model.eval()
    plain.roi_heads = stock(detector)
    with torch.no_grad():
        expected = plain([image.float() / 255 for image in images])
    assert sum(len(one.scores) for one in found) > 10
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.boxes, other["boxes"])
        assert torch.equal(one.scores, other["scores"])
        assert torch.equal(one.labels, other["labels"] - 1)


def test_images_without_objects_give_background(detector: TorchvisionDetector, scenes: DetectionSet) -> None:
    batch = batch_of(scenes, 0)
    batch["boxes"], batch["label"] = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
    detector.train()
    found = detector(batch)
    assert (found["rows"]["label"] == -1).all()
    assert all(values.isfinite().all() for values in found["outputs"].values())
    assert all(values.isfinite().all() for values in found["rows"].values())


def test_frozen_parts_do_not_learn_and_stay_in_evaluation_mode(detector: TorchvisionDetector) -> None:
    detector.freeze("backbone", "proposals")
    detector.train()
    assert not detector.model.backbone.training
    assert not detector.model.rpn.training
    assert detector.heads.training
    learned = {name.split(".")[1] for name, p in detector.named_parameters() if p.requires_grad}
    assert learned == {"roi_heads"}
    detector.freeze()
    assert all(p.requires_grad for p in detector.parameters())
    with pytest.raises(ValueError, match="parts has 'neck'"):
        detector.freeze("neck")  # type: ignore[arg-type]


def test_fixed_layers_never_learn(scenes: DetectionSet) -> None:
    detector, free = replace(TINY, fixed=2).build(3), TINY.build(3)
    assert detector.state_dict().keys() == free.state_dict().keys()
    assert detector.fingerprint() == free.fingerprint()
    detector.freeze("backbone")
    detector.freeze()
    detector.train()
    outputs = detector(batch_of(scenes, 0))["outputs"]
    sum(value.mean() for value in outputs.values()).backward()
    missing = {name for name, _ in free.named_parameters()} - {name for name, _ in detector.named_parameters()}
    assert {name.rpartition("body.")[2][0] for name in missing} == {"0", "1"}
    assert all(parameter.grad is not None for parameter in detector.parameters())
    with pytest.raises(ValueError, match="fixed is 5; expected at most the 4 layers"):
        replace(TINY, fixed=5).build(3)


def test_new_classes_leave_old_ones_as_they_are(detector: TorchvisionDetector, scenes: DetectionSet) -> None:
    rows = detector.regions(batch_of(scenes, 0))
    before = detector.heads.box_predictor(detector.heads.box_head(rows["feature"]))
    detector.grow(2, torch.Generator().manual_seed(0))
    assert detector.classes == 5
    after = detector.heads.box_predictor(detector.heads.box_head(rows["feature"]))
    assert torch.equal(after[0][:, :4], before[0])
    assert torch.equal(after[1][:, :16], before[1])
    mean = before[1].unflatten(1, (4, 4))[:, 1:].mean(1)
    assert torch.allclose(after[1][:, 16:20], mean, atol=1e-5)


def test_a_dropped_class_is_never_predicted(detector: TorchvisionDetector, scenes: DetectionSet) -> None:
    detector.drop(1)
    rows = detector.regions(batch_of(scenes, 0))
    assert (detector.judge(rows)["logits"].softmax(1)[:, 2] == 0).all()
    detector.use_cosines()
    assert (detector.judge(rows)["logits"].softmax(1)[:, 2] == 0).all()
    with torch.no_grad():
        detector.heads.score_thresh = 0.0
        assert 1 not in detector.detect([scenes.image(0)])[0].labels


def test_cosines(detector: TorchvisionDetector, scenes: DetectionSet) -> None:
    rows = detector.regions(batch_of(scenes, 0))
    described = detector.heads.box_head(rows["feature"])
    weight = detector.heads.box_predictor.cls_score.weight
    boxes = detector.heads.box_predictor(described)[1]
    detector.use_cosines()
    logits, deltas = detector.heads.box_predictor(described)
    assert torch.allclose(logits, 20 * F.cosine_similarity(described[:, None], weight[None], dim=2), atol=1e-4)
    assert torch.equal(deltas, boxes)
    detector.freeze("backbone", "proposals", "head")
    assert not detector.heads.box_predictor.cls_score.bias.requires_grad
    layer = detector.heads.box_predictor.cls_score
    detector.use_cosines()
    assert detector.heads.box_predictor.cls_score is layer
    detector.grow(1, torch.Generator().manual_seed(0))
    assert torch.equal(detector.heads.box_predictor(described)[0][:, :4], logits)
    assert detector.cosines


def test_fingerprint_is_of_backbone_and_pooler(detector: TorchvisionDetector) -> None:
    before = detector.fingerprint()
    with torch.no_grad():
        detector.heads.box_predictor.cls_score.weight.add_(1)
    assert detector.fingerprint() == before
    detector.heads.box_roi_pool.output_size = (5, 5)
    assert detector.fingerprint() != before
    detector.heads.box_roi_pool.output_size = (3, 3)
    with torch.no_grad():
        next(detector.model.backbone.parameters()).add_(1e-3)
    assert detector.fingerprint() != before


def test_rows_may_be_taken_after_a_box_head_that_is_frozen(detector: TorchvisionDetector, scenes: DetectionSet) -> None:
    pooled, known = detector.regions(batch_of(scenes, 0)), detector.fingerprint()
    detector.tap = "head"
    torch.manual_seed(0)
    rows = detector.regions(batch_of(scenes, 0))
    assert rows["feature"].shape[1:] == detector.feature_shape == (TINY.head,)
    assert torch.equal(detector.judge(rows)["logits"], rows["logits"])
    assert pooled["feature"].shape[1:] == detector.pooled_shape
    assert detector.fingerprint() != known
    before = detector.fingerprint()
    with torch.no_grad():
        detector.heads.box_head.fc6.weight.add_(1e-3)
    assert detector.fingerprint() != before
    detector.freeze("backbone", "proposals", "head")
    with pytest.raises(ValueError, match=r"tap is 'head' and parts is .*expected backbone and head to be frozen"):
        detector.freeze("backbone", "proposals")


def test_other_detectors_are_refused() -> None:
    with pytest.raises(ValueError, match="mask head"):
        TorchvisionDetector(maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2))
    with pytest.raises(ValueError, match="RetinaNet; expected one with a box head"):
        TorchvisionDetector(retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2))


def test_heads_keep_their_settings(detector: TorchvisionDetector) -> None:
    detector.heads.score_thresh = 0.3
    heads = TappedRoIHeads.of(detector.heads)
    assert heads.score_thresh == 0.3
    assert heads.fg_bg_sampler.batch_size_per_image == TINY.regions
    assert heads.fg_bg_sampler.positive_fraction == TINY.positive
