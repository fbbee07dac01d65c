import pytest
import torch

from memreplay.nlp.scope import area_under_curve, choose_threshold


def test_the_threshold_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        inside = torch.rand(15, generator=generator) * 0.8 + 0.2
        outside = torch.rand(9, generator=generator) * 0.8

        def score(at: float, inside: torch.Tensor = inside, outside: torch.Tensor = outside) -> float:
            return float((inside >= at).double().mean() + (outside < at).double().mean())

        candidates = torch.linspace(-0.1, 1.1, 500).tolist()
        assert score(choose_threshold(inside, outside)) >= max(map(score, candidates)) - 1e-9


def test_without_texts_outside_most_inside_are_kept() -> None:
    inside = torch.linspace(0, 1, 101)
    at = choose_threshold(inside, kept=0.9)
    assert float((inside >= at).double().mean()) == pytest.approx(0.9, abs=0.02)
    with pytest.raises(ValueError, match="inside is empty"):
        choose_threshold(torch.empty(0))


def test_the_area_counts_pairs() -> None:
    inside, outside = torch.tensor([0.9, 0.4, 0.4]), torch.tensor([0.4, 0.1])
    pairs = [1.0 if i > o else 0.5 if i == o else 0.0 for i in inside for o in outside]
    assert area_under_curve(inside, outside) == pytest.approx(100 * sum(pairs) / 6)
