"""LinearRecorder: the linear layers that a forward passes through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode


@dataclass
class Layer:
    """One application of a linear layer.

    Attributes:
        input: what it was given.
        weight: its weight.
        bias: its bias, if any.
        channels: the axis of the output that the weight makes.
        unfold: from ``input`` to what the weight is multiplied with, (n, ..., D).
        output: where in the graph the gradient at the output arrives, whatever is written into the output later.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    channels: int
    unfold: Callable[[Tensor], Tensor]
    output: GradientEdge = field(init=False)
    version: int = field(init=False)

    def __post_init__(self) -> None:
        self.version = self.input._version

    @property
    def overwritten(self) -> bool:
        """Whether ``input`` holds other numbers now."""
        return self.input._version != self.version


class LinearRecorder(TorchFunctionMode):
    """While active, notes where parameters are used in `torch.nn.functional.linear` or ``conv2d``.

    Functions are watched rather than modules, so that parameters used otherwise, or more than once, are known.

    Args:
        parameters: those to watch.

    >>> import torch
    >>> model = torch.nn.Linear(3, 2)
    >>> with LinearRecorder(model.parameters()) as recorder:
    ...     _ = model(torch.zeros(5, 3)).relu_()
    >>> [layer.input.shape for layer in recorder.layers()]
    [torch.Size([5, 3])]
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self._uses = {id(parameter): 0 for parameter in parameters}
        self._noted: list[Layer] = []

    def layers(self) -> list[Layer]:
        """The linear layers whose watched parameters are used nowhere else and whose input is still there."""
        once = [x for x in self._noted if self._uses.get(id(x.weight), 1) == self._uses.get(id(x.bias), 1) == 1]
        return [layer for layer in once if not layer.overwritten]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        used = [id(tensor) for tensor in _tensors((args, kwargs)) if id(tensor) in self._uses]
        if used and any(tensor.requires_grad for tensor in _tensors(result)):
            layer = _LAYERS[func](*args, **kwargs) if func in _LAYERS else None
            if layer is not None:
                layer.output = get_gradient_edge(result)
                self._noted.append(layer)
            for parameter in used:
                # an input that is a parameter, or anything but a linear layer, counts as more than one use
                plain = layer is not None and parameter != id(layer.input)
                self._uses[parameter] += 1 if plain else 2
        return result


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Layer:
    return Layer(input, weight, bias, -1, lambda x: x)


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Layer | None:
    if groups != 1 or isinstance(padding, str) or input.dim() != 4:
        return None
    kernel = weight.shape[2:]
    return Layer(input, weight, bias, 1, lambda x: F.unfold(x, kernel, dilation, padding, stride).transpose(1, 2))


_LAYERS: dict[Any, Callable[..., Layer | None]] = {F.linear: _linear, F.conv2d: _conv2d}


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in nested sequences and dicts."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from _tensors(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
