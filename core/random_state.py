"""Random states: where the generators stand, to be put back there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

RandomState: TypeAlias = dict[str, Any]
"""States of the global generators, and of some others."""


def random_state(others: Sequence[torch.Generator] = ()) -> RandomState:
    """States of the global generators (torch on CPU and GPUs, numpy, Python) and of ``others``."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
        "others": [generator.get_state() for generator in others],
    }


def set_random_state(state: RandomState, others: Sequence[torch.Generator] = ()) -> None:
    """Puts the generators back to where `random_state` found them.

    >>> state = random_state()
    >>> first = torch.rand(3)
    >>> set_random_state(state)
    >>> torch.equal(torch.rand(3), first)
    True
    """
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
    for generator, saved in zip(others, state["others"], strict=True):
        generator.set_state(saved)
