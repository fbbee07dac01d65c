"""Expansion: a vector is joined with the memories that it recalls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .retrievers import Nearest
from .stores import Store

_QUERIES = 512
"""Vectors that are expanded at a time."""


@dataclass(frozen=True)
class Expansion:
    """Adds to a vector what it has in common with similar ones, whatever their classes:

        ``x / |x| + weight * m / |m|``, with ``m = sum of max(s_i, 0) * x_i`` over the ``k`` rows ``x_i`` of a memory
        with the largest cosines ``s_i``

    and brings it to length 1 (query expansion: Chum et al., Total Recall, ICCV 2007; weighted by similarity: Radenović,
    Tolias and Chum, Fine-tuning CNN Image Retrieval with No Human Annotation, TPAMI 2019). A short text alone has few
    of the words of its class; the memories supply their like, which helps most where there is one shot. Labels of the
    memory are not read: texts without labels serve as well.

    Args:
        k: rows that are recalled.
        weight: of what is recalled, against 1 for the vector itself.
    """

    k: int = 50
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}; expected at least 1 row")
        if self.weight < 0:
            raise ValueError(f"weight is {self.weight}; expected a number of at least 0")

    def __call__(self, feature: Tensor, memory: Store) -> Tensor:
        """Vectors (B, D) of length 1.

        Args:
            feature: (B, D).
            memory: rows with ``feature`` (D,).

        >>> memory = Store(2)
        >>> slots = memory.add({"feature": torch.tensor([[0.0, 1.0], [1.0, 0.0]])})
        >>> Expansion(k=1)(torch.tensor([[0.6, 0.8]]), memory)
        tensor([[0.3162, 0.9487]])
        """
        rows = F.normalize(memory.rows()["feature"].float(), dim=1)
        found = []
        for part in F.normalize(feature, dim=1).split(_QUERIES):
            scores, slots = memory.search({"feature": part}, self.k, Nearest("feature"))
            recalled = torch.einsum("qk,qkd->qd", scores.clamp(min=0).to(rows), rows[slots])
            found.append(F.normalize(part + self.weight * F.normalize(recalled, dim=1).to(part), dim=1))
        return torch.cat(found) if found else feature
