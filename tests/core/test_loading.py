from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from memreplay.core.batch import jagged
from memreplay.core.loading import EpochSampler, Feed, batches
from memreplay.core.random_state import random_state, set_random_state


def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def feed_of(loader) -> Feed:
    one = accelerator()
    return Feed(loader, one.prepare(loader), one)


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(50, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = order(0, 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert order(0, 0) == first
    assert sorted(first) == list(range(50))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert list(EpochSampler(4, shuffle=False)) == [0, 1, 2, 3]


def test_batches_hold_every_row_once():
    rows = {
        "input": torch.arange(14.0).view(7, 2),
        "label": torch.arange(7),
        "text": jagged([[i] * i for i in range(7)]),
    }
    found = list(batches(rows, 3))
    assert [len(batch["label"]) for batch in found] == [3, 3, 1]
    for batch in found:
        assert torch.equal(batch["input"], rows["input"][batch["label"]])
        assert [len(text) for text in batch["text"].unbind()] == batch["label"].tolist()
    assert sorted(torch.cat([batch["label"] for batch in found]).tolist()) == list(range(7))
    assert [len(batch["label"]) for batch in batches(rows, 3, drop_last=True)] == [3, 3]
    assert batches(rows, 3).dataset[2]["label"] == 2
    with pytest.raises(ValueError, match="size is 0"):
        batches(rows, 0)


def test_random_states_of_every_generator_come_back():
    own = torch.Generator()

    def numbers():
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random(), torch.rand(1, generator=own).item()

    np.random.normal()  # leaves half of a pair behind
    state = random_state([own])
    first = numbers()
    assert numbers() != first
    set_random_state(state, [own])
    assert numbers() == first


def loader_of(kind: str):
    data = {"label": torch.arange(23)}
    if kind == "batches":
        return batches(data, 4)
    if kind == "a list":
        return [{"label": torch.arange(i, i + 4)} for i in range(6)]
    generator = torch.Generator() if kind == "own generator" else None

    def collate(rows):
        return {"label": torch.stack([row[0] for row in rows])}

    return DataLoader(TensorDataset(data["label"]), 4, shuffle=True, collate_fn=collate, generator=generator)


@pytest.mark.parametrize("kind", ["batches", "global generator", "own generator", "a list"])
@pytest.mark.parametrize("skip", [0, 1, 5, 6])
def test_an_epoch_can_be_taken_up_anywhere(kind, skip):
    def train(feed, epoch, skip=0):
        """What an epoch shows, and the states after each batch."""
        seen, states = [], []
        for batch in feed.epoch(epoch, skip):
            seen.append((batch["label"].tolist(), torch.rand(1).item()))  # the model draws numbers too
            states.append((feed.start, feed.now()))
        return seen, states

    torch.manual_seed(0)
    feed = feed_of(loader_of(kind))
    before = train(feed, 0)[1][-1:]
    whole, states = train(feed, 1)
    last = torch.rand(1).item()

    torch.manual_seed(99)
    again = feed_of(loader_of(kind))
    again.resume(*[*before, *states][skip])
    rest, _ = train(again, 1, skip)
    assert rest == whole[skip:]
    assert torch.rand(1).item() == last


def test_the_last_batch_is_known_and_a_loop_may_break_off():
    one = accelerator()
    loader = batches({"label": torch.arange(10)}, 4)
    feed = Feed(loader, one.prepare(loader), one)
    assert [feed.at_end for _ in feed.epoch(0)] == [False, False, True]
    assert len(feed) == 3
    for _ in feed.epoch(1):
        break
    assert not one.gradient_state.in_dataloader


def test_data_sets_learn_the_epoch():
    class Data(TensorDataset):
        epoch = -1

        def set_epoch(self, epoch):
            self.epoch = epoch

    data = Data(torch.arange(4))
    feed = feed_of(
        DataLoader(data, sampler=EpochSampler(4), collate_fn=lambda rows: {"x": torch.stack([r[0] for r in rows])})
    )
    orders = []
    for epoch in (0, 1, 0):
        orders.append([batch["x"].item() for batch in feed.epoch(epoch)])
        assert data.epoch == epoch
    assert orders[0] == orders[2] != orders[1]
