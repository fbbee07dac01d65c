"""Gradients: one gradient per row, as a matrix or in factors that give inner products without it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Gradients(ABC):
    """One gradient per row, known by their inner products."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def products(self, m: int) -> tuple[Tensor, Tensor]:
        """Inner products of the first ``m`` rows with the others, (m, n - m), and squared lengths, (n,)."""


class DenseGradients(Gradients):
    """Gradients as they are, (n, P).

    >>> DenseGradients(torch.tensor([[3.0, 4.0], [1.0, 0.0]])).products(1)
    (tensor([[3.]]), tensor([25.,  1.]))
    """

    def __init__(self, values: Tensor) -> None:
        self._values = _floating(values)

    def __len__(self) -> int:
        return len(self._values)

    def products(self, m: int) -> tuple[Tensor, Tensor]:
        values = self._values
        return values[:m] @ values[m:].t(), torch.linalg.vector_norm(values, dim=1).square()


class LinearGradients(Gradients):
    """Gradients in the weight and bias of a linear layer, in factors.

    The gradient of one row is ``sum_t e_t a_t'`` in the weight and ``sum_t e_t`` in the bias, with the layer's inputs a
    and the gradients e at its outputs; t counts where the layer is applied to the row, such as tokens. So the inner
    product of two rows is ``sum_st (a_s . b_t + 1) (e_s . f_t)``, where 1 is the bias. The matrix (n, P) is made only
    where it is smaller than this sum.

    Args:
        inputs: (n, D), or (n, T, D) for T places.
        errors: (n, C) or (n, T, C).
        weight: whether the weight counts.
        bias: whether the bias counts.

    >>> inputs, errors = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [2.0, 1.0]])
    >>> [values.tolist() for values in LinearGradients(inputs, errors).products(1)]
    [[[8.0]], [10.0, 15.0]]
    """

    def __init__(self, inputs: Tensor, errors: Tensor, *, weight: bool = True, bias: bool = True) -> None:
        if errors.dim() == 3 and errors.shape[1] == 1:
            inputs, errors = inputs[:, 0], errors[:, 0]
        self._inputs, self._errors = _floating(inputs), _floating(errors)
        self._weight, self._bias = weight, bias

    def __len__(self) -> int:
        return len(self._errors)

    def products(self, m: int) -> tuple[Tensor, Tensor]:
        if self._errors.dim() == 2 and self._errors.is_cpu:
            return self._products_of_places(m)
        inputs, errors = _by_place(self._inputs), _by_place(self._errors)
        n, places, outputs = errors.shape
        if n * outputs * inputs.shape[2] < (m * (n - m) + n) * places**2:
            return DenseGradients(self._dense(inputs, errors)).products(m)
        products, squares = _over_places(errors.double(), m)
        if self._weight:
            both, own = _over_places(inputs, m)
            products, squares = products.mul_(both.add_(self._bias)), squares.mul_(own.add_(self._bias))
        return products.sum((1, 3)), squares.sum((1, 2))

    def _products_of_places(self, m: int) -> tuple[Tensor, Tensor]:
        """`products` where every row is one place; for few rows, numpy's calls take a fraction of torch's time."""
        # the errors of rows learned well are so small that squares of float32 vanish
        inputs, errors = self._inputs.numpy(), self._errors.numpy().astype(np.float64)
        products, squares = errors[:m] @ errors[m:].T, np.einsum("ij,ij->i", errors, errors)
        if self._weight:
            products *= inputs[:m] @ inputs[m:].T + self._bias
            squares *= np.einsum("ij,ij->i", inputs, inputs) + self._bias
        return torch.from_numpy(products), torch.from_numpy(squares)

    def _dense(self, inputs: Tensor, errors: Tensor) -> Tensor:
        """(n, P)"""
        parts = [torch.bmm(errors.transpose(1, 2), inputs).flatten(1)] if self._weight else []
        return torch.cat([*parts, errors.sum(1)] if self._bias else parts, 1)


class JoinedGradients(Gradients):
    """Gradients in several groups of parameters, at least one.

    >>> ones = DenseGradients(torch.ones(2, 4))
    >>> JoinedGradients([ones, ones]).products(1)
    (tensor([[8.]]), tensor([8., 8.]))
    """

    def __init__(self, parts: Sequence[Gradients]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts[0])

    def products(self, m: int) -> tuple[Tensor, Tensor]:
        products, squares = self._parts[0].products(m)
        for part in self._parts[1:]:
            more, longer = part.products(m)
            products, squares = products + more, squares + longer
        return products, squares


def _floating(values: Tensor) -> Tensor:
    """In a dtype to calculate in, without a gradient."""
    if values.requires_grad:
        values = values.detach()
    return values if values.dtype is torch.float32 else values.to(torch.promote_types(values.dtype, torch.float32))


def _by_place(values: Tensor) -> Tensor:
    """(n, T, D)"""
    return values.reshape(len(values), -1, values.shape[-1]).contiguous()


def _over_places(x: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """For ``x`` (n, T, D), inner products of each place of the first m rows with each place of the others,
    (m, T, n - m, T), and of the places within a row, (n, T, T)."""
    n, places, dim = x.shape
    flat = x.view(n * places, dim)
    products = (flat[: m * places] @ flat[m * places :].t()).view(m, places, n - m, places)
    return products, torch.bmm(x, x.transpose(1, 2))
