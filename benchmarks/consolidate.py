"""Choosing exemplars at the end of a session: herding and k-center."""

from __future__ import annotations

import torch
from harness import Bench, Work, main, sum_seconds
from torch import Tensor

from memreplay.core.selection import Ranker
from memreplay.core.stores import Store
from memreplay.core.stores.keeping import Herding, KCenter

ROWS, DIM, CHOSEN = 5_000, 512, 20


def herding_loop(features: Tensor, m: int) -> list[int]:
    """iCaRL's Algorithm 4 (Rebuffi et al., 2017) as printed: a distance per row and step."""
    x = features / features.norm(dim=1, keepdim=True)
    mean, total = x.mean(0), torch.zeros_like(x[0])
    free = torch.zeros_like(x[:, 0])
    chosen: list[int] = []
    for k in range(1, m + 1):
        row = int(((mean - (x + total) / k).norm(dim=1) + free).argmin())
        chosen.append(row)
        free[row] = torch.inf
        total = total + x[row]
    return chosen


def k_center_loop(features: Tensor, m: int) -> list[int]:
    """The greedy of core-sets (Sener and Savarese, 2018), with the distances to each row picked from `torch.cdist`."""
    chosen = [int((features - features.mean(0)).norm(dim=1).argmin())]
    nearest = torch.cdist(features, features[chosen]).squeeze(1)
    while len(chosen) < m:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, torch.cdist(features, features[chosen[-1:]]).squeeze(1))
    return chosen


def measure(bench: Bench) -> None:
    # Freed once, so that the loops' temporaries reuse memory; with new pages for each, they take several times as long.
    torch.empty(30 << 20, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(ROWS, DIM, generator=generator).to(bench.device)
    rows = {"feature": features, "label": torch.arange(ROWS, device=bench.device)}
    one_pass = sum_seconds(features.nbytes) if bench.device == "cpu" else None
    cases: list[tuple[str, Ranker, Work, int]] = [
        # which row comes next depends on the product of all rows with the one before: a pass per row
        ("herding", Herding(), lambda: herding_loop(features, CHOSEN), CHOSEN),
        ("k-center", KCenter(), lambda: k_center_loop(features, CHOSEN), 1),
    ]
    for name, keep, loop, passes in cases:
        limit = None if one_pass is None else passes * one_pass
        label = f"{name}, {CHOSEN} of {ROWS:,}"
        bench.compare(
            label,
            lambda k=keep: k.select(rows, CHOSEN, generator=generator),
            {"published loop": (loop, 6.0)},
            calls=2,
            limit=limit,
        )
        bench.compare(
            f"{label}, candidates of a store",
            lambda k=keep: Store(CHOSEN, device=bench.device).consolidate(k, CHOSEN, rows),
            {"published loop": (loop, None)},
            calls=2,
            limit=limit,
        )


if __name__ == "__main__":
    main(measure)
