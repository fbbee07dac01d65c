"""TrainedHead: a head learned step by step, with what a memory recalls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch
from ..loading import batches
from ..memory import ReplayMemory
from ..mixers.view import View
from ..training import fit, picker
from .linear import LinearHead


@dataclass(frozen=True)
class TrainedHead:
    """A linear or cosine head, trained by AdamW on vectors. New classes start at the mean of their rows (Qi, Brown and
    Lowe, Low-Shot Learning with Imprinted Weights, CVPR 2018).

    Args:
        scale: of the cosine; None for a linear head.
        steps: optimizer steps.
        batch_size: new rows per step.
        lr: learning rate.
        weight_decay: of AdamW.
    """

    scale: float | None = 20.0
    steps: int = 100
    batch_size: int = 32
    lr: float = 0.01
    weight_decay: float = 0.0

    def fit(
        self,
        rows: Batch,
        classes: int,
        start: LinearHead | None = None,
        memory: ReplayMemory | None = None,
        *,
        seed: int = 0,
        **options: Any,
    ) -> LinearHead:
        """The head for ``classes`` classes.

        Args:
            rows: ``feature`` (N, D) and ``label`` int64 (N,).
            classes: rows of the head.
            start: the head so far, whose classes come first; None: a new one.
            memory: what is recalled, and how it enters the loss. It is not added to, see `remembered`.
            seed: of the order of the rows.
            options: for `fit`.
        """
        head = grown(start, rows, classes, self.scale)
        optimizer = torch.optim.AdamW(head.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        if self.steps:
            fit(
                head,
                optimizer,
                batches(rows, self.batch_size, seed=seed),
                memory,
                steps=self.steps,
                forward=outputs_of,
                query=lambda batch: {"feature": batch["feature"]},
                remember=(),
                **{"progress_bar": False, "log_every": self.steps, **options},
            )
        return head


def grown(start: LinearHead | None, rows: Mapping[str, Tensor], classes: int, scale: float | None) -> LinearHead:
    """``start`` with rows for the classes up to ``classes``, each the mean of its vectors among ``rows``, of length 1;
    zero where there is none."""
    feature, label = rows["feature"], rows["label"]
    means = feature.new_zeros(classes, feature.shape[1]).index_add_(0, label, feature)
    means = F.normalize(means, dim=1)
    if start is None:
        return LinearHead(means, None if scale is not None else means.new_zeros(classes), scale)
    return start.with_rows(means[start.classes :])


def outputs_of(head: Callable[[Tensor], Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The forward of a head on stored vectors: logits, and the vectors as features."""
    return {"logits": head(batch["feature"]), "feature": batch["feature"]}


def remembered(head: LinearHead, rows: Batch, names: tuple[str, ...]) -> Batch:
    """What a memory shall take in of ``rows``: columns, outputs and scores by name, as for `memreplay.fit`."""
    with torch.no_grad():
        columns = picker(names)(View(rows, outputs_of(head, rows)))
    assert columns is not None
    return dict(columns)
