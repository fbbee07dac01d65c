"""Episodic: a term for meta-training, whose support set comes with the batch and not from a memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..batch import take
from .term import Composable, Term, at_step
from .view import View, columns_of


@dataclass(frozen=True)
class Episodic(Composable):
    """Shows the rows of an episode to the term inside as it wants to see them: those marked as support as the draw
    ``"support"``, the others as the new rows. The features of both come from one forward, as in the authors' code of
    prototypical networks, which are ``Episodic(PrototypeLoss("support"))``, trained by `memreplay.fit` on the batches
    of `EpisodeBatches` (Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017).

    Args:
        term: reads the draw ``"support"``.
        mark: boolean column (B,), true for support rows.

    >>> from memreplay.core.mixers import PrototypeLoss
    >>> import torch
    >>> rows = {"label": torch.tensor([5, 7, 7]), "support": torch.tensor([True, True, False])}
    >>> episode = View(rows, {"feature": torch.tensor([[0.0], [2.0], [1.0]])})
    >>> Episodic(PrototypeLoss("support"))(episode, {})
    {'prototype': tensor(0.6931)}
    """

    term: Term
    mark: str = "support"

    def __call__(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        support = new.column(self.mark)
        return self.term(_part(new, ~support), {**old, "support": _part(new, support)})

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(getattr(self.term, "names", ()))

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(getattr(self.term, "reads", ())) - {"support"}

    def at(self, step: int) -> Term:
        term = at_step(self.term, step)
        return self if term is self.term else Episodic(term, self.mark)


def _part(view: View, chosen: Tensor) -> View:
    index = chosen.nonzero().squeeze(1)
    return View(take(columns_of(view.rows), index), take(view.outputs, index))
