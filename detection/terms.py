"""Terms of the loss of a detector that replays regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..core.mixers.term import Composable
from ..core.mixers.view import View

LOSSES = ("loss_cls", "loss_box", "loss_objectness", "loss_rpn_box")
"""What detectors call their losses here: of the box head, and of the proposals."""


@dataclass(frozen=True)
class DetectorLoss(Composable):
    """The losses that the detector itself reports for the new images or regions; those of them that there are.

    Detectors give means over all regions of a step, not one loss per region: such an output has the mean in every row.

    >>> import torch
    >>> view = View({}, {"loss_cls": torch.tensor([0.5, 0.5]), "logits": torch.zeros(2, 3)})
    >>> DetectorLoss()(view, {})
    {'loss_cls': tensor(0.5000)}
    """

    def __call__(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        return {name: new.output(name).mean() for name in LOSSES if name in new.outputs}

    @property
    def names(self) -> tuple[str, ...]:
        return LOSSES


@dataclass(frozen=True)
class ROIReplay(Composable):
    """The same losses of the box head on recalled regions: ``loss_cls_replay``, and ``loss_box_replay`` where the
    regions have boxes.

    Args:
        draw: name of the draw.

    >>> import torch
    >>> old = {"replay": View({}, {"loss_cls": torch.tensor([0.25, 0.25])})}
    >>> ROIReplay()(View({}, {}), old)
    {'loss_cls_replay': tensor(0.2500)}
    """

    draw: str = "replay"

    def __call__(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        if self.draw not in old:
            return {}
        view = old[self.draw]
        return {f"{name}_{self.draw}": view.output(name).mean() for name in LOSSES[:2] if name in view.outputs}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{name}_{self.draw}" for name in LOSSES[:2])

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.draw})
