"""ANIL: a head that is learned anew in every episode from a start that all episodes share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..mixers.term import Composable
from ..mixers.view import View
from .linear import LinearHead


class ANIL(nn.Module, Composable):
    """Almost no inner loop (Raghu et al., Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of
    MAML, ICLR 2020): MAML whose inner loop adapts the head alone,

        ``W' <- W' - rate * dL(support; W') / dW'``, ``steps`` times from the shared start ``W``;
        loss ``L(query; W')``, differentiated through these steps, for the features and for ``W``

    with ``L`` the cross-entropy. As a term it reads the draw ``"support"``: train with ``Episodic(ANIL(...))``, its
    parameters in the optimizer. As a head it is fitted to new shots by the same steps, see `fit`.

    Args:
        features: D, of the vectors.
        way: classes of every episode, in training and afterwards.
        rate: of the inner steps.
        steps: inner steps.
        generator: draws the start, uniformly in +-1 / sqrt(D); the bias starts at 0.
    """

    def __init__(
        self, features: int, way: int, rate: float = 0.1, steps: int = 5, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if not rate > 0 or steps < 0:
            raise ValueError(f"rate is {rate} and steps is {steps}; expected above 0 and at least 0")
        start = torch.empty(way, features).uniform_(-1, 1, generator=generator) * features**-0.5
        self.head = LinearHead(start, torch.zeros(way))
        self.rate, self.steps = rate, steps

    def forward(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        """The loss on the new rows, see `Term`; labels count from 0 to way - 1."""
        support = old.get("support")
        if support is None:
            return {}
        weights = self.adapted(support.output("feature"), support.column("label"), differentiable=True)
        logits = functional_call(self.head, weights, (new.output("feature"),))
        return {"anil": F.cross_entropy(logits, new.column("label"))}

    def adapted(self, feature: Tensor, label: Tensor, *, differentiable: bool = False) -> dict[str, Tensor]:
        """Weights of the head by name after the inner steps on features (B, D) with labels (B,).

        Args:
            differentiable: whether gradients will be asked for through the steps.
        """
        weights: dict[str, Tensor] = dict(self.head.named_parameters())
        for _ in range(self.steps):
            loss = F.cross_entropy(functional_call(self.head, weights, (feature,)), label)
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=differentiable)
            weights = {
                name: values - self.rate * slope for (name, values), slope in zip(weights.items(), slopes, strict=True)
            }
        return weights

    def fit(self, rows: Mapping[str, Tensor], classes: int) -> LinearHead:
        """The head adapted to ``feature`` (N, D) and ``label`` int64 (N,).

        Raises:
            ValueError: another number of classes than it was made for.

        >>> rows = {"feature": torch.eye(2), "label": torch.tensor([0, 1])}
        >>> ANIL(2, way=2, steps=50).fit(rows, 2)(torch.eye(2)).argmax(1).tolist()
        [0, 1]
        """
        if classes != self.head.classes:
            raise ValueError(f"classes is {classes}; expected {self.head.classes}, the way that the head was made for")
        with torch.enable_grad():
            weights = self.adapted(rows["feature"].to(self.head.weight), rows["label"].to(self.head.weight.device))
        return LinearHead.of_tensors(weights)

    @property
    def names(self) -> tuple[str, ...]:
        return ("anil",)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"support"})
