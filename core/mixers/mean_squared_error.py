"""MeanSquaredError: regression, on the new rows or on a draw."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch.nn.functional as F
from torch import Tensor

from .term import RowTerm, weighted_mean
from .view import View


@dataclass(frozen=True)
class MeanSquaredError(RowTerm):
    """Mean squared error of the new rows; ``draw="name"`` for the rows of a draw. Importance weights count.

    Args:
        target: column of the shape of the output; (B,) also fits an output of shape (B, 1).
        output: the model's output.

    >>> import torch
    >>> view = View({"target": torch.tensor([1.0, 3.0])}, {"output": torch.tensor([[0.0], [0.0]])})
    >>> MeanSquaredError()(view, {})
    {'mean_squared_error': tensor(5.)}
    """

    _: KW_ONLY
    target: str = "target"
    output: str = "output"
    name: str = "mean_squared_error"

    def loss(self, view: View) -> Tensor:
        return mean_squared_error(view, self.output, self.target)


@dataclass(frozen=True)
class ReplayMeanSquaredError(MeanSquaredError):
    """Mean squared error of a draw, to the targets it was stored with.

    Args:
        draw: name of the draw.
    """

    draw: str | None = "replay"
    _: KW_ONLY
    name: str = "replay_mean_squared_error"


def mean_squared_error(view: View, output: str, target: str) -> Tensor:
    """Mean over the elements of ``(outputs[output] - rows[target]) ** 2``, rows counted by their weights.

    Raises:
        ValueError: the shapes differ.
    """
    found, wanted = view.output(output), view.column(target)
    if found.dim() == wanted.dim() + 1 and found.shape[-1] == 1:
        found = found.squeeze(-1)
    if found.shape != wanted.shape:
        raise ValueError(differing_shapes(output, found, target, wanted))
    return squared_error(found, wanted, view.weights)


def squared_error(found: Tensor, wanted: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of ``(found - wanted) ** 2``, rows counted by their weights (B,)."""
    if weights is None:
        return F.mse_loss(found, wanted)
    return weighted_mean(F.mse_loss(found, wanted, reduction="none"), weights)


def differing_shapes(output: str, found: Tensor, column: str, wanted: Tensor) -> str:
    """What to say of an output that does not have the shape of its column."""
    shapes = f"output {output!r} has shape {tuple(found.shape)} and column {column!r} {tuple(wanted.shape)}"
    return f"{shapes}; expected the same shape"
