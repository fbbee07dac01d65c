"""Precision: the number format that an encoder computes in."""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "int8"]


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights, one scale per output: ``y = x (q * s)^T + b``. On a CPU the inputs are brought
    to 8 bits too, as they come (dynamic quantisation), and the product is one of integers; elsewhere weights alone are
    small.

    For inference: it has no gradients.

    >>> layer = nn.Linear(16, 4)
    >>> x = torch.randn(3, 16)
    >>> bool((Int8Linear(layer)(x) - layer(x)).norm() < 0.05 * layer(x).norm())
    True
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        scale = weight.abs().amax(1).clamp_(min=torch.finfo(weight.dtype).tiny) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round_().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self._packed: Any = None

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., C), in the dtype of ``x``."""
        if x.is_cpu:
            if self._packed is None:
                self._packed = _pack(self.weight, self.scale, self.bias)
            product: Tensor = torch.ops.quantized.linear_dynamic(
                x, self._packed, reduce_range=True
            )  # older processors overflow with all eight bits
            return product
        return F.linear(x, self.weight.to(x.dtype) * self.scale[:, None], self.bias)


def convert(model: nn.Module, precision: Precision) -> nn.Module:
    """``model`` in another precision, changed in place; for ``"int8"`` its linear layers are replaced.

    Raises:
        ValueError: an unknown precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(get_args(Precision))}")
    if precision == "bfloat16":
        return model.to(torch.bfloat16)
    if precision == "int8":
        for name, layer in list(model.named_modules()):
            if isinstance(layer, nn.Linear):
                model.set_submodule(name, Int8Linear(layer))
    return model


def _pack(weight: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
    """Weights as the integer kernels of PyTorch want them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantised tensors are to move out of PyTorch, their kernels are not
        zero = torch.zeros(len(scale), dtype=torch.int64)
        quantized = torch.quantize_per_channel(weight.float() * scale[:, None], scale.double(), zero, 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(quantized, bias)
