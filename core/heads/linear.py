"""LinearHead: one row of weights per class."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearHead(nn.Module):
    """``logits = W x + b``, or with ``scale`` the cosine classifier ``scale * cos(W_c, x)`` (Gidaris and Komodakis,
    Dynamic Few-Shot Visual Learning without Forgetting, CVPR 2018), which treats few-shot classes like the others.

    Args:
        weight: (C, D).
        bias: (C,), or None.
        scale: of the cosine; None for a linear head. It is learned with the weights.

    >>> head = LinearHead(torch.eye(3), scale=10.0)
    >>> head(torch.tensor([[0.0, 2.0, 0.0]])).tolist()
    [[0.0, 10.0, 0.0]]
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, scale: float | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.scale = None if scale is None else nn.Parameter(torch.tensor(float(scale)))

    @property
    def classes(self) -> int:
        """Rows of weights."""
        return len(self.weight)

    def forward(self, feature: Tensor) -> Tensor:
        """Logits (B, C) of features (B, D)."""
        if self.scale is None:
            return F.linear(feature, self.weight, self.bias)
        return self.scale * F.normalize(feature, dim=1) @ F.normalize(self.weight, dim=1).T

    def with_rows(self, weight: Tensor) -> LinearHead:
        """The same head with more classes, whose weights (N, D) come after those held; their bias is 0."""
        bias = None if self.bias is None else torch.cat([self.bias.detach(), self.bias.new_zeros(len(weight))])
        joined = torch.cat([self.weight.detach(), weight.to(self.weight)])
        return LinearHead(joined, bias, None if self.scale is None else float(self.scale.detach()))

    def of_classes(self, index: Tensor) -> LinearHead:
        """The head of some classes alone, in the order of ``index`` (int64, (n,)); nothing is left of the others."""
        bias = None if self.bias is None else self.bias.detach()[index]
        return LinearHead(self.weight.detach()[index], bias, None if self.scale is None else float(self.scale.detach()))

    def on_half(self, half: int) -> LinearHead:
        """The linear head on vectors of twice the width that says what this one does of a half of them, the first (0)
        or the second (1), each half of length 1 / sqrt(2) where the whole has length 1.

        Raises:
            ValueError: a cosine head.
        """
        if self.scale is not None:
            raise ValueError("the head is a cosine; expected a linear one")
        weight = self.weight.new_zeros(self.classes, 2, self.weight.shape[1])
        weight[:, half] = math.sqrt(2) * self.weight.detach()
        return LinearHead(weight.flatten(1), self.bias)

    def mean_with(self, other: LinearHead, share: float = 0.5) -> LinearHead:
        """The linear head whose logits are ``share`` times those of this one and ``1 - share`` times those of
        ``other``, both with a bias.

        Raises:
            ValueError: a cosine head, or one without a bias.

        >>> head = LinearHead(torch.eye(2), torch.zeros(2))
        >>> head.mean_with(LinearHead(-torch.eye(2), torch.tensor([2.0, 4.0])))(torch.tensor([[5.0, 7.0]])).tolist()
        [[1.0, 2.0]]
        """
        if self.bias is None or other.bias is None or self.scale is not None or other.scale is not None:
            raise ValueError("the heads have no bias, or a cosine; expected linear heads with a bias")
        weight = other.weight.detach().to(self.weight)
        bias = other.bias.detach().to(weight)
        return LinearHead(
            share * self.weight.detach() + (1 - share) * weight, share * self.bias.detach() + (1 - share) * bias
        )

    def tensors(self) -> dict[str, Tensor]:
        """Its parameters by name, to be saved; see `of_tensors`."""
        return {name: values.detach() for name, values in self.named_parameters()}

    @staticmethod
    def of_tensors(tensors: dict[str, Tensor]) -> LinearHead:
        """The head that gave `tensors`."""
        scale = tensors.get("scale")
        return LinearHead(tensors["weight"], tensors.get("bias"), None if scale is None else float(scale))
