import pytest
import torch

from memreplay import Store
from memreplay.core.expansion import Expansion


def unit(n: int, seed: int) -> torch.Tensor:
    values = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return values / values.norm(dim=1, keepdim=True)


def memory_of(rows: torch.Tensor) -> Store:
    store = Store(len(rows))
    store.add({"feature": rows})
    return store


def test_it_is_the_formula() -> None:
    """By hand, for every vector on its own; more vectors than are expanded at a time."""
    rows, asked = unit(40, 0), unit(600, 1)
    found = Expansion(k=3, weight=0.5)(asked, memory_of(rows))
    for number in (0, 511, 512, 599):
        cosines = sorted(((float(asked[number] @ row), row) for row in rows), key=lambda pair: -pair[0])[:3]
        mean = sum(max(cosine, 0) * row for cosine, row in cosines)
        by_hand = asked[number] + 0.5 * mean / mean.norm()
        assert torch.allclose(found[number], by_hand / by_hand.norm(), atol=1e-5)


def test_the_length_of_vectors_does_not_matter() -> None:
    rows, asked = unit(10, 0), unit(5, 1)
    expected = Expansion(k=2)(asked, memory_of(rows))
    assert torch.allclose(Expansion(k=2)(3 * asked, memory_of(7 * rows)), expected, atol=1e-5)


def test_a_memory_smaller_than_k_and_no_vectors() -> None:
    memory = memory_of(unit(2, 0))
    assert Expansion(k=50)(unit(3, 1), memory).shape == (3, 6)
    assert Expansion()(torch.empty(0, 6), memory).shape == (0, 6)


def test_what_points_the_other_way_is_not_recalled() -> None:
    asked = torch.tensor([[1.0, 0.0]])
    assert torch.equal(Expansion(k=1)(asked, memory_of(-asked)), asked)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="k is 0; expected at least 1 row"):
        Expansion(k=0)
    with pytest.raises(ValueError, match=r"weight is -1; expected a number of at least 0"):
        Expansion(weight=-1)
