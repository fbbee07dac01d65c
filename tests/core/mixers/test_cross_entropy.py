from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from memreplay.core.mixers import CrossEntropy, JointCrossEntropy, ReplayCrossEntropy, View
from memreplay.core.stores.rows import Rows

LOGITS = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [0.0, math.log(3.0)]], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 0])
LOSSES = [math.log(2), math.log(4 / 3), math.log(4)]  # -log of 1/2, 3/4 and 1/4


def view(n: int = 3, label: str = "label", logits: str = "logits", weights: Tensor | None = None) -> View:
    return View(
        Rows({label: LABELS[:n]}, torch.arange(n), torch.arange(n), weights=weights), {logits: LOGITS[:n].clone()}
    )


def test_cross_entropy_by_hand():
    loss = CrossEntropy()(view(), {"replay": view(1)})
    assert list(loss) == ["cross_entropy"]
    assert loss["cross_entropy"].item() == pytest.approx(sum(LOSSES) / 3)


def test_replay_reads_its_draw():
    old = {"replay": view(1), "labels": view(2, "y", "scores")}
    assert ReplayCrossEntropy()(view(), old)["replay_cross_entropy"].item() == pytest.approx(LOSSES[0])
    term = ReplayCrossEntropy("labels", label="y", logits="scores", name="ce")
    assert term(view(), old)["ce"].item() == pytest.approx(sum(LOSSES[:2]) / 2)


def test_label_smoothing_by_hand():
    # the target is (0.95, 0.05): 0.1 spread over two classes
    loss = CrossEntropy(label_smoothing=0.1).loss(View({"label": LABELS[1:2]}, {"logits": LOGITS[1:2]}))
    assert loss.item() == pytest.approx(0.95 * math.log(4 / 3) + 0.05 * math.log(4))
    with pytest.raises(ValueError, match="label_smoothing is 2"):
        CrossEntropy(label_smoothing=2)


def test_importance_weights_make_a_weighted_mean():
    weights = torch.tensor([1.0, 2.0, 5.0])
    expected = (LOSSES[0] + 2 * LOSSES[1] + 5 * LOSSES[2]) / 8
    for scale in (1.0, 0.125):
        loss = ReplayCrossEntropy()(view(), {"replay": view(weights=scale * weights)})
        assert loss["replay_cross_entropy"].item() == pytest.approx(expected)


@pytest.mark.parametrize("weights", [None, torch.ones(3)])
def test_ignored_rows_do_not_count(weights):
    rows = view(weights=weights)
    rows.rows.columns["label"] = torch.tensor([0, -1, 0])
    loss = CrossEntropy(ignore_index=-1).loss(rows)
    assert loss.item() == pytest.approx((LOSSES[0] + LOSSES[2]) / 2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_may_be_narrow_integers(dtype):
    loss = CrossEntropy().loss(View({"label": LABELS.to(dtype)}, {"logits": LOGITS}))
    assert loss.item() == pytest.approx(sum(LOSSES) / 3)


@pytest.mark.parametrize("bad", [2, -1])
@pytest.mark.parametrize("term", [CrossEntropy(), JointCrossEntropy()])
def test_a_label_without_a_logit_is_named(term, bad):
    rows = View({"label": torch.tensor([0, bad, -100])}, {"logits": LOGITS})
    with pytest.raises(ValueError, match=f"label {bad} has no logit; the model gave 2 classes, expected .* 0 to 1"):
        term(rows, {})


def test_missing_names_are_listed():
    with pytest.raises(KeyError, match=r"column 'label' is missing; the rows have \['y'\]"):
        CrossEntropy()(view(label="y"), {})
    with pytest.raises(KeyError, match=r"output 'logits' is missing; the model gave \['scores'\]"):
        CrossEntropy()(view(logits="scores"), {})


def test_a_draw_is_not_taken_for_a_label():
    with pytest.raises(TypeError):
        CrossEntropy("labels")


def test_joint_is_one_mean_over_all_rows():
    old = {"a": view(1), "b": view(2)}
    sums = [sum(LOSSES[:n]) for n in (3, 1, 2)]
    assert JointCrossEntropy()(view(), old)["cross_entropy"].item() == pytest.approx(sum(sums) / 6)
    assert JointCrossEntropy(("b", "absent"))(view(), old)["cross_entropy"].item() == pytest.approx(
        (sums[0] + sums[2]) / 5
    )
    assert torch.equal(JointCrossEntropy()(view(), {})["cross_entropy"], CrossEntropy()(view(), {})["cross_entropy"])
    with pytest.raises(TypeError, match="draws is 'replay'"):
        JointCrossEntropy("replay")
