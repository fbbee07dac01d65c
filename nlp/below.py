"""LayersBelow: what the layers that do not learn make of a text is the same every time, and is computed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..core.batch import offsets_of
from .encoder import TextEncoder


class LayersBelow:
    """Remembers the hidden states that enter the first layer that learns: texts that were seen before run through the
    layers above alone. With half the layers fixed, a later epoch takes two thirds of the time.

    The first time it would serve, both ways are run on the same texts. Where they differ, as in a model whose layers
    need more of those below than hidden states, everything is computed every time; so it is on a GPU, which would have
    to wait for the ids of the texts.

    Args:
        encoder: whose layers below learn nothing and run without dropout; it is in use until `close`.
        layers: the place of the list of layers among the modules of its body.
        top: the last of them, those that learn.
        room: bytes of hidden states that are kept at most.
    """

    def __init__(self, encoder: TextEncoder, layers: str, top: nn.ModuleList, room: int = 2**30) -> None:
        self._encoder, self._name, self._top, self._room = encoder, layers, top, room
        self._all = encoder.body.get_submodule(layers)
        self._kept: dict[tuple[int, ...], Tensor] = {}
        self._given: Tensor | None = None
        self._seen: Tensor | None = None
        self._serves: bool | None = False if encoder.pooling.deep else None
        self._hook = top[0].register_forward_pre_hook(self._enter, with_kwargs=True)

    def __call__(self, tokens: Tensor) -> Tensor:
        """What the encoder gives for ``tokens`` in the jagged layout."""
        if self._serves is False or tokens.device.type != "cpu":
            return self._encoder(tokens)  # type: ignore[no-any-return]
        bounds, ids = offsets_of(tokens).tolist(), tokens.values().tolist()
        rows = [tuple(ids[start:end]) for start, end in pairwise(bounds)]
        if any(row not in self._kept for row in rows):
            vectors: Tensor = self._encoder(tokens)
            self._keep(rows)
            return vectors
        states = pad_sequence([self._kept[row] for row in rows], batch_first=True)
        if self._serves is None:
            self._serves = self._agrees(tokens, states)
        return self._short(tokens, states) if self._serves else self._encoder(tokens)

    def close(self) -> None:
        """Leaves the encoder as it was."""
        self._hook.remove()
        self._kept.clear()

    def _keep(self, rows: list[tuple[int, ...]]) -> None:
        assert self._seen is not None
        for row, states in zip(rows, self._seen, strict=True):
            own = states[: len(row)]
            if row not in self._kept and own.nbytes <= self._room:
                self._kept[row] = own.clone()
                self._room -= own.nbytes
        self._seen = None

    def _short(self, tokens: Tensor, states: Tensor) -> Tensor:
        with self._only_top(states):
            return self._encoder(tokens)  # type: ignore[no-any-return]

    def _agrees(self, tokens: Tensor, states: Tensor) -> bool:
        training = self._top[0].training
        self._top.eval()
        try:
            with torch.no_grad():
                return torch.allclose(self._encoder(tokens), self._short(tokens, states), atol=1e-4)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return False  # what a model of another kind may make of a list of layers that is too short
        finally:
            self._top.train(training)
            self._seen = None

    @contextmanager
    def _only_top(self, states: Tensor) -> Iterator[None]:
        self._given = states
        self._encoder.body.set_submodule(self._name, self._top)
        try:
            yield
        finally:
            self._encoder.body.set_submodule(self._name, self._all)
            self._given = None

    def _enter(self, layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Before the first layer that learns: takes note of what enters it, or puts in what entered earlier."""
        hidden: Tensor = args[0] if args else named["hidden_states"]
        if self._given is None:
            self._seen = hidden.detach()
            return None
        given = self._given.to(hidden)
        return ((given, *args[1:]), named) if args else (args, {**named, "hidden_states": given})
