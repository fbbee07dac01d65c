"""InSpan: a head for a few long vectors, found in the few directions that they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .linear import LinearHead
from .logistic import LogisticRegression


@dataclass(frozen=True)
class InSpan:
    """The same head as ``how`` finds, sooner where rows are fewer than features: the weights with the least penalty lie
    in the span of the rows (the representer theorem: Kimeldorf and Wahba 1971; Schölkopf, Herbrich and Smola 2001), so
    they are sought in coordinates of an orthonormal basis of it.

    Args:
        how: its penalty is of the length of the weights, and it starts from zero.
    """

    how: LogisticRegression = LogisticRegression()  # noqa: RUF009 (immutable)

    def fit(self, rows: Mapping[str, Tensor], classes: int) -> LinearHead:
        """The head for ``feature`` (N, D) and ``label`` int64 (N,).

        >>> rows = {"feature": torch.eye(2, 9), "label": torch.tensor([0, 1])}
        >>> InSpan().fit(rows, 2)(torch.eye(2, 9)).argmax(1).tolist()
        [0, 1]
        """
        feature = rows["feature"]
        if len(feature) >= feature.shape[1]:
            return self.how.fit(rows, classes)
        basis = torch.linalg.qr(feature.double().T).Q
        head = self.how.fit({**rows, "feature": feature.double() @ basis}, classes)
        assert head.bias is not None
        return LinearHead((head.weight.detach().double() @ basis.T).float(), head.bias)
