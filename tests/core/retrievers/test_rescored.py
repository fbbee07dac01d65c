from __future__ import annotations

import pytest
import torch

from memreplay.core.retrievers import Nearest, Rescored
from memreplay.core.selection import Pool, Uniform

POOL = Pool({"input": torch.arange(20.0).view(20, 1), "label": torch.arange(20) % 3})


def wrong(rows):
    """Rows of class 2 are misclassified, later ones by more."""
    return (rows["label"] == 2) * (1 + rows["input"][:, 0])


def test_the_highest_verdicts_of_all_rows():
    chosen = Rescored(Uniform(), 20, score=wrong).rank(POOL, 3, generator=torch.Generator())
    assert chosen.index.tolist() == [17, 14, 11]
    assert chosen.score is not None
    assert chosen.score.tolist() == [18.0, 15.0, 12.0]


def test_only_candidates_are_judged():
    asked = []

    def score(rows):
        asked.extend(rows["input"][:, 0].tolist())
        return rows["input"][:, 0].requires_grad_()

    by = Rescored(Nearest("input", "euclidean"), 4, score=score)
    assert by.needs == ("input",)
    chosen = by.rank(POOL, 2, query={"input": torch.tensor([[5.1]])}, generator=torch.Generator())
    assert sorted(asked) == [4.0, 5.0, 6.0, 7.0]
    assert chosen.index.tolist() == [7, 6]
    assert chosen.score is not None
    assert not chosen.score.requires_grad


def test_as_many_candidates_as_rows_are_asked_for():
    by = Rescored(Uniform(), 2, score=wrong)
    assert len(by.select(POOL, 7, generator=torch.Generator()).unique()) == 7
    assert len(by.select(POOL, 99, generator=torch.Generator())) == 20
    assert by.select({"input": torch.zeros(0, 1)}, 3, generator=torch.Generator()).tolist() == []


def test_a_verdict_that_is_not_a_number_comes_last():
    by = Rescored(Uniform(), 3, score=lambda rows: rows["x"])
    pool = {"x": torch.tensor([float("nan"), -5.0, 2.0])}
    assert by.select(pool, 3, generator=torch.Generator()).tolist() == [2, 1, 0]


def test_bad_input_is_named():
    with pytest.raises(
        ValueError, match=r"score is None in Rescored.*pass it here, or with each draw as recall\(score"
    ):
        Rescored(Uniform(), 3).select(POOL, 1, generator=torch.Generator())
    with pytest.raises(ValueError, match=r"score returned shape \(20, 1\); expected one number for each of 20 rows"):
        Rescored(Uniform(), 20, score=lambda rows: rows["input"]).select(POOL, 1, generator=torch.Generator())
    with pytest.raises(ValueError, match="n is 0; expected at least 1 candidate"):
        Rescored(Uniform(), 0)
