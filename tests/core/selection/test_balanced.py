from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from memreplay.core.retrievers import Nearest
from memreplay.core.selection import ClassBalanced, Pool, TopScore, Uniform, rank
from memreplay.core.selection.balanced import equal_shares, groups_of


@given(sizes=st.lists(st.integers(0, 12), max_size=8), k=st.integers(0, 60), seed=st.integers(0, 100))
def test_equal_shares(sizes, k, seed):
    shares = equal_shares(sizes, k, torch.Generator().manual_seed(seed))
    assert sum(shares) == min(k, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    # whoever could give more gives as much as the others, but for one row of the remainder
    open_shares = [share for share, size in zip(shares, sizes, strict=True) if share < size]
    if open_shares:
        assert max(shares) - min(open_shares) <= 1


def test_the_remainder_goes_to_random_groups():
    generator = torch.Generator().manual_seed(0)
    extra = torch.zeros(5)
    for _ in range(500):
        extra += torch.tensor(equal_shares([9] * 5, 12, generator)) - 2
    assert extra.sum() == 1000
    # two of five without replacement spread less than independent draws, by (n - k) / (n - 1)
    statistic = ((extra - 200) ** 2 / 200).sum().item()
    assert chi2.sf(statistic * (5 - 1) / (5 - 2), df=4) > 1e-3


def test_groups_by_ascending_value_with_ascending_rows():
    groups = groups_of({"label": torch.tensor([[7], [-1], [7], [0]], dtype=torch.int32)}, "label")
    assert {label: rows.tolist() for label, rows in groups.items()} == {-1: [1], 0: [3], 7: [0, 2]}
    assert list(groups) == [-1, 0, 7]


def test_inner_ranks_inside_each_class_and_prefixes_are_balanced():
    pool = {"label": torch.tensor([0, 0, 0, 1, 1, 5]), "loss": torch.tensor([1.0, 3.0, 2.0, 9.0, 8.0, 0.0])}
    chosen = rank(ClassBalanced(TopScore("loss")), pool, 5, generator=torch.Generator())
    assert chosen.index.tolist() == [1, 3, 5, 2, 4]
    assert chosen.score is not None
    assert chosen.score.tolist() == [3.0, 9.0, 0.0, 2.0, 8.0]


def test_the_query_reaches_the_inner_selector():
    pool = {
        "feature": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]]),
        "label": torch.tensor([0, 0, 1, 1]),
    }
    by = ClassBalanced(Nearest("feature"))
    assert by.needs == ("label", "feature")
    query = {"feature": torch.tensor([[0.0, 3.0]])}
    assert by.select(pool, 2, query=query, generator=torch.Generator()).tolist() == [1, 3]


def test_empty_pool_and_k_zero():
    by = ClassBalanced(Uniform())
    empty = {"label": torch.empty(0, dtype=torch.int64)}
    assert by.select(empty, 3, generator=torch.Generator()).tolist() == []
    assert by.select({"label": torch.tensor([1])}, 0, generator=torch.Generator()).tolist() == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [(torch.zeros(3), "'label' is torch.float32"), (torch.zeros(3, 2), r"has shape \(3, 2\)")],
)
def test_labels_must_be_integers(labels, message):
    with pytest.raises(ValueError, match=message):
        ClassBalanced(Uniform()).select({"label": labels}, 1, generator=torch.Generator())


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="column 'label' is missing"):
        ClassBalanced(Uniform()).select(Pool({"class": torch.zeros(3)}), 1, generator=torch.Generator())
