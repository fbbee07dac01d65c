from __future__ import annotations

import torch
from scipy.stats import chisquare, kstest

from memreplay.core.selection import Keyed, rank
from memreplay.core.stores.keeping import Jumping, Reservoir


def test_keys_are_minus_exponential():
    keys = Reservoir().key({"label": torch.zeros(3000)}, torch.Generator().manual_seed(0))
    assert keys.dtype == torch.float64
    assert kstest((-keys).numpy(), "expon").pvalue > 1e-3
    assert keys.max() <= 0
    assert keys.isfinite().all()


def test_the_highest_key_is_uniform():
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(7)
    for _ in range(2100):
        counts[rank(Reservoir(), {"label": torch.zeros(7)}, 1, generator=generator).index] += 1
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_protocols():
    assert isinstance(Reservoir(), Keyed)
    assert isinstance(Reservoir(), Jumping)
    assert Reservoir().weight({"label": torch.zeros(3)}) is None
    assert repr(Reservoir()) == "Reservoir()"
