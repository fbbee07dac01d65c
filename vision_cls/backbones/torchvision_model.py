"""TorchvisionModel: any classification model of torchvision, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .classifier import Classifier
from .normalize import Normalize
from .weights import load_weights


class TorchvisionModel(Classifier):
    """Any classification model of torchvision by name, its last linear layer replaced by a head of ``classes`` rows.

    It takes images in [0, 1] and normalises them itself.

    Args:
        channels: of the images, 1 or 3; a single one is spread over the three that the model has.
        size: side of the images in pixels; most models take any.
        classes: rows of the head.
        name: as in ``torchvision.models.list_models()``.
        weights: None for random ones, ``"default"`` for torchvision's best (downloaded), or a local state dict:
            ``.safetensors``, or a file of ``torch.save`` (read with ``weights_only``). Its classifier is left out,
            and may be missing.
        mean: per channel, as the weights expect it (by default ImageNet's as in torchvision).
        std: per channel.

    Raises:
        ValueError: no such model, one that does not end in a linear layer, weights of another model.

    >>> import torch
    >>> TorchvisionModel(3, 32, 5, "resnet18").features(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 512])
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        name: str = "resnet18",
        weights: str | Path | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        from torchvision import models

        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}; expected 1 or 3, which is what torchvision's models take")
        if name not in models.list_models(module=models):
            raise ValueError(f"name is {name!r}; expected a model of torchvision.models, such as 'resnet18'")
        network: Any = models.get_model(name, weights="DEFAULT" if weights == "default" else None)
        place = [path for path, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1:]
        last = network.get_submodule(place[0]) if place else None
        if not isinstance(last, nn.Linear) or place[0].partition(".")[0] not in ("fc", "classifier", "head", "heads"):
            raise ValueError(f"name is {name!r}, a model that does not end in a linear layer; expected one that does")
        network.set_submodule(place[0], nn.Identity())
        if hasattr(network, "aux_logits"):
            network.aux_logits = False
        if weights not in (None, "default"):
            load_weights(network, str(weights), ignore=f"{place[0]}.")
        super().__init__(nn.Sequential(Normalize(mean, std), network), nn.Linear(last.in_features, classes))
