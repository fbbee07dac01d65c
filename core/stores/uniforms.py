"""Uniforms: random numbers drawn in blocks and handed out in order."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_NONE = np.empty(0)


class Uniforms:
    """Uniform float64 numbers in [0, 1), drawn from a generator in blocks and handed out in order."""

    block = 1024

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self._values: NDArray[np.float64] = _NONE
        self._at = 0
        self._state = generator.get_state()

    def take(self, n: int) -> NDArray[np.float64]:
        """The next ``n`` numbers."""
        if self._at + n <= len(self._values):
            self._at += n
            return self._values[self._at - n : self._at]
        head = self._values[self._at :]
        n -= len(head)
        whole = n - n % self.block
        parts = [head, self._draw(whole)]
        self._state = self.generator.get_state()
        self._values = self._draw(self.block) if n > whole else _NONE
        self._at = n - whole
        return np.concatenate([*parts, self._values[: self._at]])

    def _draw(self, n: int) -> NDArray[np.float64]:
        values: NDArray[np.float64] = torch.rand(n, dtype=torch.float64, generator=self.generator).numpy()
        return values

    def state(self) -> tuple[Tensor, Tensor, int]:
        """The generator's state now and before the current block, and the position in the block; 0 if it is used up."""
        now = self.generator.get_state()
        return (now, self._state.clone(), self._at) if self._at < len(self._values) else (now, now.clone(), 0)

    def restore(self, now: Tensor, before: Tensor, at: int) -> None:
        """Continues where `state` was taken.

        Raises:
            ValueError: ``at`` is no position in a block, or a state no state of a generator.
        """
        if not isinstance(at, int) or not 0 <= at < self.block:
            raise ValueError(f"at is {at}; expected a position below {self.block}")
        if now.dim() != 1 or before.dim() != 1:
            raise ValueError(f"states have shapes {tuple(now.shape)}, {tuple(before.shape)}; expected one dimension")
        self.generator.set_state(before)
        self._state, self._values, self._at = before.clone(), _NONE, 0
        if at:
            self._values, self._at = self._draw(self.block), at
        self.generator.set_state(now)  # others may have used it since the block was drawn
