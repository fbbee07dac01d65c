"""ReplayCallback: a memory within Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from torch import Tensor

from ..core.batch import Batch
from ..core.memory import ReplayMemory
from ..core.mixers import Forward, View
from ..core.mixers.view import logits_of_input
from ..core.training import Remember, picker
from .replayed import Processes, check, replay_loss


class ReplayCallback(Callback):  # type: ignore[misc]  # not every environment has Lightning's types
    """Replay for Lightning: ``Trainer(callbacks=[ReplayCallback(memory)])``.

    The module's ``training_step`` stays as it is. When its gradients are complete, the callback recalls rows, runs them
    through the module and adds the gradient of the memory's terms, once per optimizer step however many batches are
    accumulated and before gradients are clipped. After every batch the memory is offered its rows. Lightning's
    checkpoints hold the memory. The terms are logged as ``replay/...``; with nothing to recall, the run is bit for bit
    one without a memory.

    Works with automatic optimization on one device, and on several with the strategy ``ddp``, where rows that
    Lightning's sampler repeats to fill up the last batch are remembered twice.

    Args:
        memory: its mix holds terms on recalled rows alone, such as ``ReplayCrossEntropy()``.
        forward: ``forward(module, batch) -> outputs``; by default ``{"logits": module(batch["input"])}``.
        remember: what to remember of a batch, as in `memreplay.fit`: names of columns, or of outputs where
            ``training_step`` returns more than the loss; or a function. None: the batch. A batch that is a pair has
            the columns ``input`` and ``label``.

    Raises:
        ValueError: a mix that needs the loss of the new rows; and, when training starts, a way of running it that
            would not be exact: manual optimization, ``16-mixed``, or a strategy that shards the model.

    >>> from memreplay import ReplayCrossEntropy, ReplayMemory, Store
    >>> callback = ReplayCallback(ReplayMemory(Store(500), mix=ReplayCrossEntropy(), replay=16))
    """

    def __init__(
        self,
        memory: ReplayMemory,
        forward: Forward | None = None,
        remember: Sequence[str] | Remember | None = None,
    ) -> None:
        check(memory)
        self.memory = memory
        self._forward = forward or logits_of_input
        self._pick = picker(remember)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuses what would not be exact; joins the memories of several processes."""
        strategy = type(trainer.strategy).__name__
        if not pl_module.automatic_optimization:
            raise ValueError("automatic_optimization is False; ReplayCallback expects Lightning to take the steps")
        if strategy not in ("SingleDeviceStrategy", "DDPStrategy") or trainer.precision == "16-mixed":
            raise ValueError(
                f"strategy is {strategy} and precision {trainer.precision!r}; ReplayCallback expects one device or "
                "'ddp', and a precision without a loss scale, such as 'bf16-mixed'"
            )
        if trainer.world_size > 1:
            self.memory.attach(Processes(trainer.global_rank, trainer.world_size, trainer.strategy.root_device))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Adds the gradient of the terms on recalled rows."""
        with trainer.precision_plugin.train_step_context():
            loss = replay_loss(self.memory, pl_module, self._forward, pl_module.device)
        if loss is None:
            return
        wanted = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        # not backward(): DistributedDataParallel has just finished with these parameters
        found = torch.autograd.grad(loss.total, wanted, allow_unused=True, materialize_grads=True)
        for parameter, gradient in zip(wanted, _mean_over_processes(found, trainer.world_size), strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        pl_module.log_dict({f"replay/{name}": value.detach() for name, value in loss.terms.items()})

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Offers the batch to the memory."""
        answered = dict(outputs) if isinstance(outputs, Mapping) else {}
        self.memory.remember(**(self._pick(View(columns(batch), answered)) or {}))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Lets the processes go."""
        if trainer.world_size > 1:
            self.memory.detach()

    def state_dict(self) -> dict[str, Any]:
        """The memory, for Lightning's checkpoints."""
        return self.memory.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the checkpoint was written."""
        self.memory.load_state_dict(state_dict)


def columns(batch: Any) -> Batch:
    """The columns of a batch: itself if it is a mapping; a pair is ``input`` and ``label``.

    >>> columns((torch.zeros(1, 2), torch.tensor([1])))
    {'input': tensor([[0., 0.]]), 'label': tensor([1])}

    Raises:
        TypeError: it is something else.
    """
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return {"input": batch[0], "label": batch[1]}
    raise TypeError(f"batch is a {type(batch).__name__}; expected a dict of tensors, or inputs and labels")


def _mean_over_processes(gradients: Sequence[Tensor], size: int) -> list[Tensor]:
    if size == 1:
        return list(gradients)
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    parts = (flat / size).split([gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
