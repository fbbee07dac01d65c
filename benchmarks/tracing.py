"""What a trace costs: a training step of the smallest network in the field's tables, with a trace and without."""

from __future__ import annotations

from itertools import cycle, pairwise

import torch
from harness import Bench, Peer, Work, main

from memreplay.core.memory import ReplayMemory
from memreplay.core.mixers import CrossEntropy, ReplayCrossEntropy, joint_forward
from memreplay.core.reporting import Trace
from memreplay.core.stores import Store

MIX = CrossEntropy() + ReplayCrossEntropy()


def measure(bench: Bench) -> None:
    # one network and one memory for both: two that are alike differ more, by where they lie, than a trace costs
    memory, trace = ReplayMemory(Store(200, device=bench.device), mix=MIX, replay=10), Trace()
    step = steps(memory, bench.device)

    def traced() -> None:
        memory.trace = trace
        step()

    def plain() -> None:
        memory.trace = None
        step()

    peers = {"without a trace": Peer(plain, 0.98)}
    bench.compare("a step of 10 + 10 rows, traced", traced, peers, calls=600, rounds=41)


def steps(memory: ReplayMemory, device: str) -> Work:
    """A step of Split-MNIST as published: two layers of 100, ten new rows and ten recalled of 200."""
    generator = torch.Generator().manual_seed(0)
    widths = (784, 100, 100, 10)
    layers = [part for a, b in pairwise(widths) for part in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    model = torch.nn.Sequential(*layers[:-1]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = [
        {
            "input": torch.randn(10, 784, generator=generator).to(device),
            "label": torch.randint(10, (10,), generator=generator).to(device),
        }
        for _ in range(100)
    ]
    feed = cycle(batches)

    def step() -> None:
        batch = next(feed)
        new, old = joint_forward(model, batch, memory.recall())
        memory.loss(new, old).backward()
        optimizer.step()
        optimizer.zero_grad()
        memory.remember(**batch)

    return step


if __name__ == "__main__":
    main(measure)
