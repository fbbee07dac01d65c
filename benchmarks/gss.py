"""GSS-greedy against the published loop: every gradient by a backward pass of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle

import torch
import torch.nn.functional as F
from harness import Bench, main
from torch import Tensor, nn

from memreplay.core import scores
from memreplay.core.gradients import Gradients
from memreplay.core.stores import Store
from memreplay.core.stores.keeping import GradientDiversity

ROWS, SAMPLE, CLASSES = 10, 10, 10


class Net(nn.Module):
    """784-100-100-10, as for MNIST in the paper."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU())
        self.head = nn.Linear(100, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


class LoopGradientDiversity:
    """Algorithm 2 (Aljundi et al., 2019) row by row; as in the authors' code, the memory samples are drawn once per
    batch."""

    def __init__(self, capacity: int, model: nn.Module, device: str) -> None:
        self.capacity, self.model, self.count = capacity, model, 0
        self.input = torch.empty(capacity, 784, device=device)
        self.label = torch.empty(capacity, dtype=torch.int64, device=device)
        self.score = torch.empty(capacity)
        self.generator = torch.Generator().manual_seed(0)

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        self.model.zero_grad()
        F.cross_entropy(self.model(x.unsqueeze(0)), y.unsqueeze(0)).backward()
        return torch.cat([p.grad.reshape(-1) for p in self.model.parameters() if p.grad is not None])

    def add(self, batch: dict[str, Tensor]) -> None:
        sample = torch.randperm(self.count, generator=self.generator)[:SAMPLE].tolist()
        known = [self.gradient(self.input[i], self.label[i]) for i in sample]
        for x, y in zip(batch["input"], batch["label"], strict=True):
            score = 1.1
            if known:
                gradient = self.gradient(x, y)
                score = max(float(F.cosine_similarity(gradient, other, dim=0)) for other in known) + 1
            if self.count < self.capacity:
                slot = self.count
                self.count += 1
            elif score < 1:
                slot = int(torch.multinomial(self.score, 1, generator=self.generator))
                odds = float(self.score[slot]) / (float(self.score[slot]) + score)
                if float(torch.rand(1, generator=self.generator)) >= odds:
                    continue
            else:
                continue
            self.input[slot], self.label[slot], self.score[slot] = x, y, score


def batches(device: str, n: int = 64) -> Iterator[dict[str, Tensor]]:
    """Batches of noisy class means, over and over."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(CLASSES, 784, generator=generator)
    made = []
    for _ in range(n):
        label = torch.randint(CLASSES, (ROWS,), generator=generator)
        noise = torch.randn(ROWS, 784, generator=generator)
        made.append({"input": (means[label] + 0.3 * noise).to(device), "label": label.to(device)})
    return cycle(made)


def exact(model: Net) -> Callable[[dict[str, Tensor]], Gradients]:
    return lambda rows: scores.factored_gradients(model, rows)


def last_layer(model: Net) -> Callable[[dict[str, Tensor]], Gradients]:
    @torch.no_grad()
    def gradients(rows: dict[str, Tensor]) -> Gradients:
        features = model.body(rows["input"])
        return scores.last_layer_gradients(features, model.head(features), rows["label"])

    return gradients


def measure(bench: Bench) -> None:
    model = Net().to(bench.device)
    for capacity in (300,) if bench.quick else (300, 1_000):
        for name, gradients, must in (("exact", exact(model), 10.0), ("last layer", last_layer(model), 40.0)):
            feed = batches(bench.device)
            store = Store(capacity, keep=GradientDiversity(gradients, SAMPLE), device=bench.device)
            loop = LoopGradientDiversity(capacity, model, bench.device)
            for _ in range(capacity // ROWS):
                store.add(next(feed))
                loop.add(next(feed))
            bench.compare(
                f"GSS-greedy, {name}, add 10, {capacity:,}",
                lambda s=store, f=feed: s.add(next(f)),
                {"published loop": (lambda p=loop, f=feed: p.add(next(f)), must)},
                calls=20,
            )


if __name__ == "__main__":
    main(measure)
