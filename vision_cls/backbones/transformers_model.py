"""TransformersModel: image encoders of transformers, such as CLIP, SigLIP and DINO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .classifier import Classifier
from .normalize import Normalize
from .weights import read_weights

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TransformersModel(Classifier):
    """An image encoder of transformers with a head of ``classes`` rows. Its features are

    - for a model of images and texts (CLIP, SigLIP), the embedding that both share;
    - for any other (DINO, DINOv2, ViT ...), the last hidden state of the class token, or the pooled output of a network
      that has no tokens (ConvNeXt, ResNet ...).

    It takes images in [0, 1], brings them to the size of the model and normalises them, as the model's image processor
    would.

    Args:
        channels: of the images, 1 or 3; a single one is spread over the three that the model has.
        size: side of the images in pixels; any, but see ``resize``.
        classes: rows of the head.
        name: a folder, or an id on the Hub such as ``openai/clip-vit-base-patch32`` or ``facebook/dinov2-small``.
        pretrained: False builds the network from its configuration alone, with random weights.
        weights: a local state dict that replaces the model's own, see `read_weights`.
        resize: side in pixels that images are brought to; None: the size of the model's configuration.

    Raises:
        ValueError: no such model, or weights of another one.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        name: str,
        pretrained: bool = True,
        weights: str | Path | None = None,
        resize: int | None = None,
    ) -> None:
        from transformers import AutoConfig, AutoModel

        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}; expected 1 or 3")
        try:
            config = AutoConfig.from_pretrained(name)
            if weights is not None:
                network: Any = _with_weights(config, weights)
            else:
                network = AutoModel.from_pretrained(name) if pretrained else AutoModel.from_config(config)
        except (OSError, ValueError) as error:
            raise ValueError(f"name is {name!r}, which cannot be loaded: {error}") from error
        vision = getattr(config, "vision_config", config)
        side = resize or int(getattr(vision, "image_size", size))
        normalize = Normalize(*_statistics(name))
        with torch.no_grad():
            encoder = _Encoder(network.eval(), side)
            dim = encoder(torch.zeros(1, 3, side, side)).shape[1]
        super().__init__(nn.Sequential(normalize, encoder), nn.Linear(dim, classes))


class _Encoder(nn.Module):
    """From normalised images of any size to (B, D)."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side

    def forward(self, x: Tensor) -> Tensor:
        network: Any = self.network
        if x.shape[-2:] != (self.side, self.side):
            x = functional.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True, align_corners=False)
        if hasattr(network, "get_image_features"):
            found = network.get_image_features(pixel_values=x)
            shared: Tensor = getattr(found, "pooler_output", found)
            return shared
        found = network(pixel_values=x)
        hidden: Tensor = found.last_hidden_state
        return hidden[:, 0] if hidden.dim() == 3 else found.pooler_output.flatten(1)


def _with_weights(config: Any, path: str | Path) -> Any:
    """A model with the weights of a file, whose names may be those of an older release of transformers."""
    from transformers import AutoModel

    build = type(AutoModel.from_config(config))
    network, told = build.from_pretrained(None, config=config, state_dict=read_weights(path), output_loading_info=True)
    if missing := sorted(told["missing_keys"]):
        raise ValueError(f"{path} holds other weights than the model: missing {missing[:3]}")
    return network


def _statistics(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the model's image processor; ImageNet's where it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        options: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(name)[0]
    except OSError:
        return IMAGENET
    return options.get("image_mean", IMAGENET[0]), options.get("image_std", IMAGENET[1])
