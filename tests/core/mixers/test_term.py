from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from memreplay.core.mixers import (
    Composable,
    CrossEntropy,
    JointCrossEntropy,
    LinearSchedule,
    LogitDistillation,
    PrototypeLoss,
    ReplayCrossEntropy,
    RowTerm,
    Scaled,
    Sum,
    UncertaintyWeighting,
    View,
    learnable,
)
from memreplay.core.mixers.term import weighted_mean

NOTHING = View({}, {})


@dataclass(frozen=True)
class Constant(Composable):
    """A term with a known value."""

    name: str
    value: float

    def __call__(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        return {self.name: torch.tensor(self.value)}

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)


def evaluated(term: Composable) -> dict[str, float]:
    return {name: value.item() for name, value in term(NOTHING, {}).items()}


def test_terms_add_up_in_order_and_flatten():
    a, b, c = Constant("a", 1.0), Constant("b", 2.0), Constant("c", 3.0)
    mix = a + (b + c)
    assert mix == Sum((a, b, c)) == (a + b) + c
    assert evaluated(mix) == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert list(evaluated(mix)) == list(mix.names) == ["a", "b", "c"]
    assert sum([a, b, c]) == mix


def test_weights_multiply_every_scalar():
    mix = 0.5 * (Constant("a", 1.0) + Constant("b", 2.0) * 3) + 2 * Constant("c", 3.0)
    assert evaluated(mix) == {"a": 0.5, "b": 3.0, "c": 6.0}


def test_any_callable_of_the_right_shape_is_a_term():
    def plain(new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        return {"plain": torch.tensor(7.0)}

    assert evaluated(Constant("a", 1.0) + plain) == {"a": 1.0, "plain": 7.0}
    mix = plain + Constant("a", 1.0)
    assert evaluated(mix) == {"plain": 7.0, "a": 1.0}
    assert mix.at(3) is mix
    assert evaluated(Scaled(2.0, plain)) == {"plain": 14.0}

    def clash(new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        return {"a": torch.tensor(7.0)}

    with pytest.raises(ValueError, match="two terms are named 'a'"):
        evaluated(Constant("a", 1.0) + clash)


@pytest.mark.parametrize("other", [3, "cross_entropy", CrossEntropy])
def test_only_terms_can_be_added(other):
    with pytest.raises(TypeError):
        CrossEntropy() + other
    with pytest.raises(TypeError):
        other + CrossEntropy()


def test_two_terms_of_one_name_are_an_error_until_one_is_renamed():
    with pytest.raises(ValueError, match="two terms are named 'replay_cross_entropy'"):
        ReplayCrossEntropy("a") + 0.5 * ReplayCrossEntropy("b")
    mix = ReplayCrossEntropy("a") + 0.5 * ReplayCrossEntropy("b", name="second")
    assert mix.names == ("replay_cross_entropy", "second")


def test_weights_must_be_finite_numbers_or_schedules():
    with pytest.raises(ValueError, match="weight is nan; expected a finite number"):
        float("nan") * CrossEntropy()
    with pytest.raises(TypeError, match="weight is 'half'"):
        Scaled("half", CrossEntropy())
    with pytest.raises(TypeError):
        "half" * CrossEntropy()


def test_at_replaces_schedules_by_numbers():
    a, b = Constant("a", 1.0), Constant("b", 10.0)
    mix = a + LinearSchedule(0.0, 1.0, steps=4) * (b + 2 * Constant("c", 1.0))
    assert mix.at(1) == a + 0.25 * (b + 2 * Constant("c", 1.0))
    assert evaluated(mix.at(1)) == {"a": 1.0, "b": 2.5, "c": 0.5}
    assert evaluated(mix.at(99)) == {"a": 1.0, "b": 10.0, "c": 2.0}
    nested = 2.0 * (LinearSchedule(0.0, 1.0, steps=4) * b)
    assert evaluated(nested.at(2)) == {"b": 10.0}


def test_a_term_without_schedules_is_its_own_at():
    for term in (CrossEntropy(), 0.5 * CrossEntropy(), CrossEntropy() + 0.5 * LogitDistillation()):
        assert term.at(5) is term


def test_a_schedule_without_a_step_is_an_error():
    with pytest.raises(TypeError, match=r"LinearSchedule.* depends on the step; evaluate term.at\(step\)"):
        evaluated(LinearSchedule(0.0, 1.0, steps=4) * Constant("a", 1.0))


def test_a_term_of_ones_own():
    @dataclass(frozen=True)
    class Mean(RowTerm):
        name: str = "mean"

        def loss(self, view: View) -> Tensor:
            return view.output("x").mean()

    new, old = View({}, {"x": torch.tensor([1.0, 3.0])}), View({}, {"x": torch.tensor([5.0])})
    assert Mean()(new, {"replay": old}) == {"mean": torch.tensor(2.0)}
    assert Mean(draw="replay", name="old")(new, {"replay": old}) == {"old": torch.tensor(5.0)}
    with pytest.raises(TypeError, match="RowTerm must override loss"):
        RowTerm()(new, {})
    with pytest.raises(TypeError, match="Composable must override __call__"):
        Composable()(new, {})


def test_an_absent_draw_contributes_nothing():
    mix = ReplayCrossEntropy() + LogitDistillation("logits") + PrototypeLoss("support")
    assert mix(NOTHING, {}) == {}
    assert (0.5 * UncertaintyWeighting(mix))(NOTHING, {}) == {}


def test_reads_lists_the_draws():
    mix = CrossEntropy() + 0.5 * ReplayCrossEntropy("labels") + UncertaintyWeighting(LogitDistillation("logits"))
    assert mix.reads == {"labels", "logits"}
    assert PrototypeLoss("support").reads == {"support"}
    assert JointCrossEntropy(("a", "b")).reads == {"a", "b"}
    assert JointCrossEntropy().reads == CrossEntropy().reads == frozenset()


def test_learnable_finds_the_modules():
    a, b = UncertaintyWeighting(CrossEntropy()), UncertaintyWeighting(ReplayCrossEntropy())
    assert list(learnable(a + 0.5 * b + LogitDistillation())) == [a, b]
    assert list(learnable(CrossEntropy())) == []
    outer = UncertaintyWeighting(0.5 * a + LogitDistillation())
    assert list(learnable(outer)) == [outer]
    assert len(list(outer.parameters())) == 3


def test_repr_says_how_to_build_it():
    mix = CrossEntropy() + LinearSchedule(0.0, 1.0, 4) * ReplayCrossEntropy("labels", label="y")
    assert eval(repr(mix)) == mix


def test_weighted_mean_by_hand():
    losses, weights = torch.tensor([[1.0, 3.0], [4.0, 4.0]]), torch.tensor([3.0, 1.0], dtype=torch.float64)
    assert weighted_mean(losses, weights).item() == pytest.approx((3 * 2 + 4) / 4)
    assert weighted_mean(losses, None).item() == 3.0
    assert weighted_mean(losses, weights).dtype == torch.float32
