"""TimmModel: any image model of timm, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .classifier import Classifier
from .normalize import Normalize
from .weights import load_weights


class TimmModel(Classifier):
    """Any model of timm (https://github.com/huggingface/pytorch-image-models) by name, with a head of ``classes`` rows.

    It takes images in [0, 1] and normalises them itself, as its weights expect it.

    Args:
        channels: of the images, 1 or 3; a single one is spread over the three that the model has.
        size: side of the images in pixels; given to the models that are built for one size, such as transformers.
        classes: rows of the head.
        name: as in ``timm.list_models()``.
        weights: None for random ones, ``"default"`` for timm's own (downloaded), or a local state dict, see
            `load_weights`; its classifier may be missing.
        mean: per channel; by default what timm says of the model.
        std: per channel; likewise.

    Raises:
        ValueError: no such model, weights of another model.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        name: str = "resnet18",
        weights: str | Path | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        import timm

        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}; expected 1 or 3, which is what timm's models take")
        if not timm.is_model(name.partition(".")[0]):
            raise ValueError(f"name is {name!r}; expected a model of timm, such as 'resnet18'")
        options: dict[str, Any] = {"pretrained": weights == "default", "num_classes": 0}
        try:
            network: Any = timm.create_model(name, img_size=size, **options)
        except TypeError:  # it takes images of any size
            network = timm.create_model(name, **options)
        if weights not in (None, "default"):
            classifier = network.pretrained_cfg.get("classifier") or "\0"
            load_weights(network, str(weights), ignore=f"{classifier}.")
        expected = network.pretrained_cfg
        normalize = Normalize(mean or expected["mean"], std or expected["std"])
        # some models have layers between the features and the classifier
        dim = getattr(network, "head_hidden_size", network.num_features)
        super().__init__(nn.Sequential(normalize, network), nn.Linear(dim, classes))
