"""AGem: a gradient that does not raise the loss on what is recalled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class AGem:
    """A-GEM (Chaudhry et al., Efficient Lifelong Learning with A-GEM, ICLR 2019). With ``g`` the gradient of the loss
    on the new rows and ``r`` that of the loss on the recalled rows, what is written is

        ``g - min(g . r, 0) / (r . r) * r``

    which is ``g`` where the two agree, and otherwise the nearest gradient that does not raise the loss on the recalled
    rows. The vectors span all parameters; on several processes their means over the processes are compared.
    """

    def __call__(
        self,
        new: Tensor,
        replay: Tensor,
        parameters: Iterable[Tensor] | None = None,
        accelerator: Any | None = None,
    ) -> None:
        """Adds the projected gradient to ``.grad`` of the parameters; used in place of ``new.backward()``.

        Args:
            new: scalar loss on the new rows.
            replay: scalar loss on the recalled rows; it may share its graph with ``new``.
            parameters: those that get a gradient, in the same order on every process; those that require none are left
                out. None: those found in the graphs of both losses.
            accelerator: an `accelerate.Accelerator`, whose loss scale and accumulation steps then apply as they do in
                its ``backward``.
        """
        wanted = list(leaves(new, replay) if parameters is None else parameters)
        wanted = [parameter for parameter in wanted if parameter.requires_grad]
        if not wanted:
            raise ValueError("parameters is empty; expected at least one that requires a gradient")
        if accelerator is not None:
            new, replay = (_scaled(loss, accelerator) for loss in (new, replay))
        gradient = _mean_over_processes(_flat_gradient(new, wanted, retain_graph=True))
        reference = _mean_over_processes(_flat_gradient(replay, wanted, retain_graph=False))
        parts = project(gradient, reference).split_with_sizes([parameter.numel() for parameter in wanted])
        for parameter, part in zip(wanted, parts, strict=True):
            part = part.view_as(parameter).to(parameter.dtype)
            if parameter.grad is None:
                parameter.grad = part.clone()
            else:
                parameter.grad += part


def project(gradient: Tensor, reference: Tensor) -> Tensor:
    """``gradient`` (P,) without the part that points against ``reference`` (P,).

    >>> project(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0]))
    tensor([1., 0.])
    """
    against = torch.dot(gradient, reference).clamp(max=0)
    # a reference of zero has a dot product of zero: nothing is subtracted
    squared = torch.dot(reference, reference)
    return gradient - against / squared.where(squared > 0, 1) * reference


def leaves(*losses: Tensor) -> list[Tensor]:
    """The parameters that ``losses`` depend on, each once, in the order in which their graphs reach them.

    >>> a, b = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    >>> [leaf is expected for leaf, expected in zip(leaves((b * a).sum()), [b, a])]
    [True, True]
    """
    found: list[Tensor] = []
    seen = set()
    waiting: list[Any] = [loss.grad_fn for loss in reversed(losses)]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting.extend(follower for follower, _ in reversed(node.next_functions))
    return found


def _flat_gradient(loss: Tensor, parameters: Sequence[Tensor], retain_graph: bool) -> Tensor:
    gradients = torch.autograd.grad(
        loss, parameters, retain_graph=retain_graph, allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def _mean_over_processes(vector: Tensor) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        size = torch.distributed.get_world_size()
        if size > 1:
            torch.distributed.all_reduce(vector)
            vector /= size
    return vector


def _scaled(loss: Tensor, accelerator: Any) -> Tensor:
    loss = loss / accelerator.gradient_accumulation_steps
    scaled: Tensor = loss if accelerator.scaler is None else accelerator.scaler.scale(loss)
    return scaled
