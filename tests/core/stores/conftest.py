"""What the tests of stores share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

State = Mapping[str, Any]


def _bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _assert_same(one: State, other: State) -> None:
    assert one["meta"] == other["meta"]
    assert one["tensors"].keys() == other["tensors"].keys()
    for name, tensor in one["tensors"].items():
        twin = other["tensors"][name]
        assert (tensor.dtype, tensor.shape) == (twin.dtype, twin.shape), name
        assert _bits(tensor) == _bits(twin), f"{name}: {tensor} is not {twin}"


@pytest.fixture
def assert_same() -> Callable[[State, State], None]:
    """Asserts that two states are equal bit for bit, generators included."""
    return _assert_same


@pytest.fixture
def unchanged() -> Callable[[Any], AbstractContextManager[None]]:
    """``with unchanged(store): ...`` asserts that the block leaves the store as it was, bit for bit."""

    @contextmanager
    def guard(store: Any) -> Iterator[None]:
        before = store.state_dict()
        yield
        _assert_same(store.state_dict(), before)

    return guard
