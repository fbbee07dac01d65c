"""ImageEncoder: a classifier without its head, which turns images into vectors."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.fingerprint import fingerprint
from . import backbones
from .backbones import Classifier
from .features import features_of


class ImageEncoder:
    """Images to vectors: the features of a classifier, brought to length 1 or divided by one number for all.

    Args:
        model: in evaluation mode from now on; its weights are not to be changed any more.
        channels: of the images, 1 or 3.
        size: side of the images in pixels.
        scale: the number that features are divided by; None: each is brought to length 1. A head that was trained on
            the features as they are says the same of divided ones, once its weights are multiplied.
        batch_size: images at a time.
    """

    def __init__(
        self, model: Classifier, channels: int, size: int, scale: float | None = None, batch_size: int = 64
    ) -> None:
        self.model = model.eval()
        self.channels = channels
        self.size = size
        self.scale = scale
        self.batch_size = batch_size

    @property
    def name(self) -> str:
        """The network, for people."""
        name = self.model.made_with.get("name")
        return type(self.model).__name__ + (f" {name}" if name else "")

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(values.device for values in self.model.parameters())

    @cached_property
    def _weights_digest(self) -> str:
        return fingerprint(self.model.body)

    def fingerprint(self) -> str:
        """A checksum of the weights, the size of the images and the scale: equal if and only if the vectors are."""
        text = f"{self._weights_digest} {self.channels} {self.size} {self.scale}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def embed(self, images: Tensor) -> Tensor:
        """Vectors (N, D), float32 on the CPU, without gradients.

        Args:
            images: (N, C, size, size), uint8 or float in [0, 1].

        Raises:
            ValueError: no images, or images of another size or with other channels.
        """
        expected = (self.channels, self.size, self.size)
        if images.shape[1:] != expected:
            raise ValueError(f"images have shape {tuple(images.shape[1:])}; expected {expected}")
        return self.scaled(features_of(self.model, images, batch=self.batch_size))

    def scaled(self, features: Tensor) -> Tensor:
        """What `embed` makes of features (N, D) of the network."""
        return F.normalize(features, dim=1) if self.scale is None else features / self.scale

    # -- written down ---------------------------------------------------------------------------------------------

    def description(self) -> dict[str, Any]:
        """What `of_description` needs besides the weights, JSON-able.

        Raises:
            ValueError: the network was made with something that cannot be written down, such as a module.
        """
        arguments = {name: _written(name, value) for name, value in self.model.made_with.items()}
        return {
            "name": self.name,
            "fingerprint": self.fingerprint(),
            "network": type(self.model).__name__,
            "arguments": arguments,
            "channels": self.channels,
            "size": self.size,
            "scale": self.scale,
        }

    def tuned_weights(self) -> dict[str, Tensor]:
        """The weights of the network but for its head: an adapter carries all it needs."""
        return self.model.body.state_dict()

    @staticmethod
    def of_description(
        described: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        network: type[Classifier] | None = None,
        device: torch.device | str | None = None,
    ) -> ImageEncoder:
        """The encoder that gave a description and weights.

        Args:
            described: see `description`.
            weights: see `tuned_weights`.
            network: the class of the network, where that is none of this package.
            device: by default the accelerator, where there is one.

        Raises:
            ValueError: no such network, or weights of another.
        """
        name = described["network"]
        known = {name: getattr(backbones, name) for name in backbones.__all__}
        made = network or known.get(name)
        if not (isinstance(made, type) and issubclass(made, Classifier)):
            raise ValueError(f"the network is a {name!r}, none of {sorted(known)}; pass network= with its class")
        takes = inspect.signature(made.__init__).parameters
        blank = {option: value for option, value in (("weights", None), ("pretrained", False)) if option in takes}
        arguments = {**described["arguments"], **blank}  # its weights are there already
        model = made(**arguments)
        try:
            model.body.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise ValueError(f"the weights are of another network than {name} with {arguments}: {error}") from error
        device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
        return ImageEncoder(model.to(device), described["channels"], described["size"], described["scale"])


def _written(name: str, value: Any) -> Any:
    """An argument of a network as JSON has it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_written(name, part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"the network was made with {name}, a {type(value).__name__}, which cannot be written down; "
        "expected a class of networks that is made from numbers and names"
    )
