from __future__ import annotations

import math

import pytest
import torch

from memreplay.core.mixers import PrototypeLoss, View
from memreplay.core.mixers.prototype import class_means


def views() -> tuple[View, View]:
    g = torch.Generator().manual_seed(0)
    support_labels, query_labels = torch.tensor([40, 7, 40, 12, 7, 40]), torch.tensor([7, 40, 12, 12])
    support = View({"label": support_labels}, {"feature": torch.randn(6, 5, generator=g, dtype=torch.float64)})
    query = View({"label": query_labels}, {"feature": torch.randn(4, 5, generator=g, dtype=torch.float64)})
    return query, support


def reference(query: View, support: View, metric: str, scale: float) -> float:
    """By loops, from the formula."""
    means = {}
    for label in sorted(set(support.column("label").tolist())):
        members = [
            h for h, y in zip(support.output("feature"), support.column("label").tolist(), strict=True) if y == label
        ]
        means[label] = sum(members) / len(members)
    total, count = 0.0, 0
    for h, label in zip(query.output("feature"), query.column("label").tolist(), strict=True):
        if label not in means:
            continue
        similarity = {
            c: scale * (-((h - m) ** 2).sum() if metric == "euclidean" else (h @ m) / (h.norm() * m.norm())).item()
            for c, m in means.items()
        }
        total += math.log(sum(math.exp(s) for s in similarity.values())) - similarity[label]
        count += 1
    return total / count


@pytest.mark.parametrize(
    ("metric", "scale"), [("euclidean", None), ("euclidean", 0.3), ("cosine", None), ("cosine", 4.0)]
)
def test_against_the_formula(metric, scale):
    query, support = views()
    loss = PrototypeLoss("support", metric=metric, scale=scale)(query, {"support": support})
    effective = scale if scale is not None else {"euclidean": 1.0, "cosine": 10.0}[metric]
    assert loss["prototype"].item() == pytest.approx(reference(query, support, metric, effective), rel=1e-10)


@pytest.mark.parametrize("stranger", [1, 13, 99])
def test_rows_of_a_class_without_support_do_not_count(stranger):
    query, support = views()
    query.column("label")[1] = stranger
    loss = PrototypeLoss()(query, {"replay": support})["prototype"]
    assert loss.item() == pytest.approx(reference(query, support, "euclidean", 1.0), rel=1e-10)
    query.column("label").fill_(stranger)
    assert PrototypeLoss()(query, {"replay": support})["prototype"].item() == 0.0


def test_gradients_reach_query_and_support():
    query, support = views()
    for view in (query, support):
        view.output("feature").requires_grad_()
    PrototypeLoss()(query, {"replay": support})["prototype"].backward()
    for view in (query, support):
        gradient = view.output("feature").grad
        assert gradient is not None
        assert (gradient != 0).all()


def test_class_means_by_hand():
    classes, means = class_means(torch.tensor([[1.0, 0.0], [5.0, 5.0], [3.0, 2.0]]), torch.tensor([9, -2, 9]))
    assert classes.tolist() == [-2, 9]
    assert means.tolist() == [[5.0, 5.0], [2.0, 1.0]]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="metric is 'dot'"):
        PrototypeLoss(metric="dot")
    with pytest.raises(ValueError, match="scale is 0"):
        PrototypeLoss(scale=0)
