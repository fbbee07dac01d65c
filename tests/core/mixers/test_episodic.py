import math

import pytest
import torch

from memreplay.core.heads import ANIL
from memreplay.core.mixers import CrossEntropy, Episodic, LinearSchedule, PrototypeLoss, View, learnable


def episode() -> View:
    """Two classes, two shots each, and two queries, in one dimension, in no order."""
    rows = {
        "label": torch.tensor([0, 1, 1, 0, 0, 1]),
        "support": torch.tensor([True, False, True, True, False, True]),
    }
    return View(rows, {"feature": torch.tensor([[0.0], [4.0], [4.0], [2.0], [2.0], [6.0]], requires_grad=True)})


def test_a_prototypical_network_by_hand() -> None:
    view = episode()
    loss = Episodic(PrototypeLoss("support"))(view, {})["prototype"]
    # prototypes 1 and 5; the query 4 of class 1 has distances 9 and 1, the query 2 of class 0 has 1 and 9
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-8)), rel=1e-4)
    loss.backward()
    # d/dx of -log p at the query 4: 2 p_other * (prototype_other - prototype_own), averaged over two queries
    other = 1 / (1 + math.exp(8))
    slopes = view.outputs["feature"].grad
    assert slopes is not None
    assert slopes[1].item() == pytest.approx(2 * other * (1 - 5) / 2, rel=1e-4)
    # prototype 5 belongs to a query at distance -1 and is held away from one at -3
    assert slopes[2].item() == pytest.approx((2 * other * (5 - 4) + 2 * other * (2 - 5)) / 2 / 2, rel=1e-4)


def test_draws_of_a_memory_are_shown_too() -> None:
    term = Episodic(PrototypeLoss("support") + CrossEntropy())
    assert term.names == ("prototype", "cross_entropy")
    assert term.reads == frozenset()
    assert Episodic(PrototypeLoss("past")).reads == {"past"}
    past = View({"label": torch.tensor([0, 1])}, {"feature": torch.tensor([[1.0], [5.0]])})
    view = episode()
    by_memory = Episodic(PrototypeLoss("past"))(view, {"past": past})["prototype"]
    torch.testing.assert_close(by_memory, Episodic(PrototypeLoss("support"))(view, {})["prototype"])


def test_schedules_and_learnable_terms_inside_are_found() -> None:
    scheduled = Episodic(LinearSchedule(0.0, 1.0, 10) * PrototypeLoss("support"))
    view = episode()
    half = scheduled.at(5)(view, {})["prototype"]
    torch.testing.assert_close(half, Episodic(PrototypeLoss("support"))(view, {})["prototype"] / 2)
    learned = ANIL(1, way=2)
    assert list(learnable(Episodic(learned))) == [learned]
    assert list(learnable(0.5 * Episodic(learned))) == [learned]
