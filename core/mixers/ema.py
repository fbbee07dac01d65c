"""EMA: a slow copy of a model, the exponential moving average of its weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class EMA(AveragedModel):
    """Reads a model out through the moving average of its weights, which forgets more slowly than the model learns
    (Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017; Arani et al., Learning Fast, Learning
    Slow (CLS-ER), ICLR 2022): ``average = decay * average + (1 - decay) * weights``.

    Call it like the model: it is in eval mode and takes no gradients. Buffers (BatchNorm's statistics) are copied, not
    averaged. `torch.optim.swa_utils.AveragedModel` does the work; ``state_dict`` holds the average and the number of
    updates. CLS-ER updates with a probability per step, which is left to the caller.

    Args:
        model: the model to copy, without the wrapper of several processes.
        decay: share of the average that an update keeps, in [0, 1].
        warmup: whether update number n keeps at most ``1 - 1 / n``, so that early weights fade sooner.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> average = EMA(model, decay=0.9)
    >>> average.update(model)
    >>> bool(average(torch.ones(1, 1)) == model(torch.ones(1, 1)))
    True
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, warmup: bool = False) -> None:
        average = get_ema_multi_avg_fn(decay)

        def warmed_up(averages: Sequence[Tensor], weights: Sequence[Tensor], updates: Tensor | int) -> None:
            kept = min(decay, 1 - 1 / (int(updates) + 1))
            get_ema_multi_avg_fn(kept)(averages, weights, updates)

        super().__init__(model, multi_avg_fn=warmed_up if warmup else average)
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the weights of ``model``; the first update copies them."""
        self.update_parameters(model)
