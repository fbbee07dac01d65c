"""CrossEntropy: on the new rows, on a draw, or one mean over both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .term import Composable, RowTerm, weighted_mean
from .view import View


@dataclass(frozen=True)
class CrossEntropy(RowTerm):
    """Mean cross-entropy of the new rows; ``draw="name"`` for the rows of a draw.

    Rows with importance weights (`Prioritized`) count by them: ``sum(w * l) / sum(w)``.

    Args:
        label: integer column (B,) with the class of each row.
        logits: output (B, C).
        label_smoothing: share of the target spread over all classes, in [0, 1].
        ignore_index: rows with this label do not count.

    >>> view = View({"label": torch.tensor([0])}, {"logits": torch.zeros(1, 2)})
    >>> CrossEntropy()(view, {})
    {'cross_entropy': tensor(0.6931)}
    """

    _: KW_ONLY
    label: str = "label"
    logits: str = "logits"
    label_smoothing: float = 0.0
    ignore_index: int = -100
    name: str = "cross_entropy"

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; expected a number from 0 to 1")

    def loss(self, view: View) -> Tensor:
        logits, labels, weights = view.output(self.logits), view.column(self.label), view.weights
        if weights is None:
            return cross_entropy(logits, labels, label_smoothing=self.label_smoothing, ignore_index=self.ignore_index)
        losses = cross_entropy(
            logits,
            labels,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            reduction="none",
        )
        return weighted_mean(losses, weights * (labels != self.ignore_index))


@dataclass(frozen=True)
class ReplayCrossEntropy(CrossEntropy):
    """Mean cross-entropy of a draw, with the labels it was stored with: experience replay as a term of its own
    (Buzzega et al., Dark Experience for General Continual Learning, NeurIPS 2020, the beta term of DER++).

    Args:
        draw: name of the draw.
    """

    draw: str | None = "replay"
    _: KW_ONLY
    name: str = "replay_cross_entropy"


@dataclass(frozen=True)
class JointCrossEntropy(Composable):
    """ER as published: one mean over the new rows and every recalled row (Chaudhry et al., On Tiny Episodic Memories
    in Continual Learning, 2019): ``mean of CE over (new, old)``.

    Importance weights of a draw are not used; ER has none.

    Args:
        draws: names of the draws that enter; None: all of them.

    >>> new = View({"label": torch.tensor([0])}, {"logits": torch.zeros(1, 2)})
    >>> old = View({"label": torch.tensor([1, 1])}, {"logits": torch.zeros(2, 2)})
    >>> JointCrossEntropy()(new, {"replay": old})
    {'cross_entropy': tensor(0.6931)}
    """

    draws: tuple[str, ...] | None = None
    _: KW_ONLY
    label: str = "label"
    logits: str = "logits"
    label_smoothing: float = 0.0
    ignore_index: int = -100
    name: str = "cross_entropy"

    def __post_init__(self) -> None:
        if isinstance(self.draws, str):
            raise TypeError(f"draws is {self.draws!r}; expected names, such as ({self.draws!r},)")

    def __call__(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        draws = old if self.draws is None else [name for name in self.draws if name in old]
        views = [new, *(old[name] for name in draws)]
        loss = cross_entropy(
            _joined([view.output(self.logits) for view in views]),
            _joined([view.column(self.label) for view in views]),
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
        )
        return {self.name: loss}

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.draws or ())


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """`torch.nn.functional.cross_entropy` for integer labels of any width, with an error that names the label that
    has no class (on the CPU; a GPU checks it by itself, later).

    Raises:
        ValueError: a label outside ``0 .. C - 1``.
    """
    if labels.dtype != torch.int64 and not labels.is_floating_point():
        labels = labels.long()
    try:
        return F.cross_entropy(
            logits, labels, label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction
        )
    except IndexError:
        raise ValueError(out_of_range(labels[labels != ignore_index], logits.shape[1])) from None


def out_of_range(labels: Tensor, classes: int) -> str:
    """What is wrong with labels of which one at least is not a class."""
    worst = labels[(labels < 0) | (labels >= classes)][0].item()
    return f"label {worst} has no logit; the model gave {classes} classes, expected labels from 0 to {classes - 1}"


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]
