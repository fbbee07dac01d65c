"""UncertaintyWeighting: terms weighted by learned uncertainties."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .term import Composable, Term, learnable
from .view import View


class UncertaintyWeighting(nn.Module, Composable):
    """Learns the weights of the terms inside (Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses
    for Scene Geometry and Semantics, CVPR 2018): with one ``s = log(sigma ** 2)`` per named term ``L``,

        ``sum of exp(-s) * L + s / 2``

    which is the paper's form for cross-entropies; for a squared error, whose likelihood has a factor 1/2, give
    ``0.5 * MeanSquaredError()``. It is a term like any other and a module: its parameters, all 0 at first, belong in
    the optimizer, and it is prepared and saved with the model.

    Raises:
        ValueError: the names of the terms are not known in advance, or a schedule is inside (put it outside).

    >>> from memreplay.core.mixers import CrossEntropy, ReplayCrossEntropy
    >>> mix = UncertaintyWeighting(CrossEntropy() + ReplayCrossEntropy())
    >>> sorted(mix.state_dict())
    ['log_variance.cross_entropy', 'log_variance.replay_cross_entropy']
    """

    def __init__(self, term: Term) -> None:
        super().__init__()
        names = tuple(getattr(term, "names", ()))
        if not names:
            raise ValueError(f"term is {term!r}, whose scalars have no known names; expected a term with .names")
        if isinstance(term, Composable) and term.at(0) is not term:
            raise ValueError(f"term is {term!r}, with a schedule inside; expected schedule * UncertaintyWeighting(...)")
        self.term = term
        self.inner = nn.ModuleList(learnable(term))
        self.log_variance = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in names})

    def forward(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        """The weighted scalars, see `Term`."""
        weighted = {}
        for name, loss in self.term(new, old).items():
            log_variance = self.log_variance[name]
            weighted[name] = torch.exp(-log_variance) * loss + log_variance / 2
        return weighted

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.log_variance)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(getattr(self.term, "reads", ()))
