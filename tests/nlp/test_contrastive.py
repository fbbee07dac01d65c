import pytest
import torch

from memreplay import View
from memreplay.nlp.contrastive import ContrastivePairs, pairs


@pytest.mark.parametrize("seed", range(10))
def test_two_partners_per_row_at_most(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (12,), generator=generator)
    first, second = pairs(labels)
    same = labels[first] == labels[second]
    assert not (first == second).any()
    for row in range(12):
        count = int((labels == labels[row]).sum())
        assert int(same[first == row].sum()) == (count > 1)
        assert int((~same[first == row]).sum()) == (count < 12)


def test_partners_of_a_class_differ() -> None:
    first, second = pairs(torch.zeros(4, dtype=torch.int64))
    assert sorted(second.tolist()) == [0, 1, 2, 3]
    assert len(first) == 4


def test_the_cost_grows_with_the_batch_not_with_its_square() -> None:
    assert len(pairs(torch.arange(100_000) % 1000)[0]) == 200_000


def test_new_and_recalled_rows_meet() -> None:
    new = View({"label": torch.tensor([0, 1])}, {"feature": torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)})
    old = View({"label": torch.tensor([0, 1])}, {"feature": torch.tensor([[0.0, 2.0], [3.0, 0.0]])})
    loss = ContrastivePairs()(new, {"replay": old})["contrastive_pairs"]
    # same class: cosine 0 in all four pairs; other class: 0 with its own batch, 1 across
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    labels = torch.tensor([0, 1, 0, 1])
    first, second = pairs(labels)
    by_hand = [
        (float(features[a] @ features[b]) - float(labels[a] == labels[b])) ** 2
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    assert loss.item() == pytest.approx(sum(by_hand) / len(by_hand))
    loss.backward()
    assert ContrastivePairs(("other",))(new, {"replay": old})["contrastive_pairs"] != loss
