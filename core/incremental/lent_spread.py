"""LentSpread: shots with the spread of the classes that are remembered."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch
from ..protocols.labels import rows_by_class
from ..protocols.seeding import generator_at


@dataclass(frozen=True)
class LentSpread:
    """Rows around a few shots, as their class may look: a shot is moved as far as some remembered row lies from the
    mean of its own class (after Hariharan and Girshick, Low-shot Visual Recognition by Shrinking and Hallucinating
    Features, ICCV 2017, and Schwartz et al., Delta-encoder, NeurIPS 2018, who learn what is plainly carried over here).

    A head that is trained on one shot for long learns it by heart, in directions that no other row of the class shares,
    while recalled rows go on pushing the class away; on rows with a spread it cannot.

        ``x' = x_shot + sqrt(1 + 1 / n) * (x_held - mean of its class)``

    where n is the number of shots of the class: their mean is itself off by ``1 / sqrt(n)`` of the spread. What is made
    has the length of its shot.

    Args:
        draws: rows made for each class, shared out among its shots.
        seed: of the draws.
    """

    draws: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws is {self.draws}; expected at least 1 row")

    def __call__(self, shots: Batch, held: Batch) -> Batch:
        """The shots and the rows made of them.

        Args:
            shots: ``feature`` (N, D) and ``label`` int64 (N,).
            held: rows of other classes, likewise; a class with a single row lends nothing.

        >>> held = {"feature": torch.tensor([[1.0, 0.2], [1.0, -0.2]]), "label": torch.tensor([0, 0])}
        >>> rows = LentSpread(draws=3)({"feature": torch.tensor([[0.0, 1.0]]), "label": torch.tensor([1])}, held)
        >>> rows["feature"].shape, rows["label"].tolist()
        (torch.Size([4, 2]), [1, 1, 1, 1])
        """
        generator = generator_at(self.seed, "lent spread")
        lent = _deviations(held)
        feature, label = [shots["feature"]], [shots["label"]]
        for members in rows_by_class(shots["label"]).values() if len(lent) else ():
            near = shots["feature"][members[torch.arange(self.draws) % len(members)]]
            moved = lent[torch.randint(len(lent), (self.draws,), generator=generator)]
            made = near + (1 + 1 / len(members)) ** 0.5 * moved
            feature.append(F.normalize(made, dim=1) * near.norm(dim=1, keepdim=True))
            label.append(shots["label"][members[:1]].expand(self.draws))
        return {"feature": torch.cat(feature), "label": torch.cat(label)}


def _deviations(held: Batch) -> Tensor:
    """What each row of a class with several lies from their mean, as wide as the class itself spreads: (M, D)."""
    found = [held["feature"][:0]]
    for members in rows_by_class(held["label"]).values():
        if (n := len(members)) > 1:
            rows = held["feature"][members]
            found.append((rows - rows.mean(0)) * (n / (n - 1)) ** 0.5)  # the mean of n rows lies amid them
    return torch.cat(found)
