import pytest
import torch

from memreplay import Batch
from memreplay.core.incremental import LentSpread


def held(n: int = 5000) -> Batch:
    """Two classes far apart, long along the first axis."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(n) % 2
    feature = torch.randn(n, 3, generator=generator) * torch.tensor([0.5, 0.1, 0.0])
    return {"feature": feature + torch.tensor([[9.0, 0, 0], [0, 0, 7]])[label], "label": label}


@pytest.mark.parametrize("n", [1, 2, 4])
def test_what_is_made_spreads_as_a_new_row_of_the_class_would(n: int) -> None:
    # far from the origin and across the spread, so that keeping the length changes next to nothing
    shots = {"feature": torch.tensor([[0.0, 0.0, 1000.0]]).repeat(n, 1), "label": torch.full((n,), 2)}
    made = LentSpread(draws=20_000)(shots, held())["feature"][n:]
    assert made.mean(0).tolist() == pytest.approx([0, 0, 1000], abs=0.03)
    expected = [0.5 * (1 + 1 / n) ** 0.5, 0.1 * (1 + 1 / n) ** 0.5]
    assert made.std(0)[:2].tolist() == pytest.approx(expected, rel=0.03)


def test_a_class_of_two_rows_lends_its_true_spread_on_average() -> None:
    generator = torch.Generator().manual_seed(1)
    pairs = {"feature": torch.randn(4000, 1, generator=generator), "label": torch.arange(2000).repeat(2)}
    pairs["feature"] = torch.cat([pairs["feature"], torch.zeros(4000, 1)], 1)
    shot = {"feature": torch.tensor([[0.0, 1000.0]]), "label": torch.tensor([5000])}
    made = LentSpread(draws=20_000)(shot, pairs)["feature"][1:]
    assert float(made[:, 0].std()) == pytest.approx(2**0.5, rel=0.04)


def test_shots_come_first_every_class_gets_its_draws_and_lengths_stay() -> None:
    feature = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]])
    rows = LentSpread(draws=10)({"feature": feature, "label": torch.tensor([4, 7, 4])}, held(20))
    assert torch.equal(rows["feature"][:3], feature)
    assert rows["label"].bincount().tolist() == [0, 0, 0, 0, 12, 0, 0, 11]
    lengths = rows["feature"].norm(dim=1)[3:]
    torch.testing.assert_close(lengths[rows["label"][3:] == 4], torch.tensor([1.0, 3.0] * 5))
    torch.testing.assert_close(lengths[rows["label"][3:] == 7], torch.full((10,), 2.0))


def test_the_seed_decides() -> None:
    shot = {"feature": torch.ones(1, 3), "label": torch.tensor([2])}
    one, same, other = (LentSpread(5, seed)(shot, held(20))["feature"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_classes_of_a_single_row_lend_nothing() -> None:
    shot = {"feature": torch.ones(1, 3), "label": torch.tensor([2])}
    alone = {"feature": torch.eye(3)[:2], "label": torch.tensor([0, 1])}
    assert len(LentSpread()(shot, alone)["label"]) == 1


def test_draws_is_a_number_of_rows() -> None:
    with pytest.raises(ValueError, match="draws is 0; expected at least 1"):
        LentSpread(draws=0)
