"""Greedy keepers in a store whose policy was another one before."""

import torch

from memreplay import GradientDiversity, Reservoir, Store


def gradients(rows: dict[str, torch.Tensor]) -> torch.Tensor:
    return rows["input"]


def batch(seed: int, n: int = 40) -> dict[str, torch.Tensor]:
    return {"input": torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))}


def test_diversity_can_consolidate_what_another_policy_kept() -> None:
    store = Store(30, keep=Reservoir())
    store.add(batch(0))
    store.consolidate(GradientDiversity(gradients), 10)
    assert len(store) == 10


def test_diversity_goes_on_replacing_after_it_took_over() -> None:
    store = Store(30, keep=Reservoir())
    store.add(batch(0))
    store.resize(30, keep=GradientDiversity(gradients, sample=1))
    before = set(store.rows().ids.tolist())
    for seed in range(1, 20):
        store.add(batch(seed))
    assert set(store.rows().ids.tolist()) != before
