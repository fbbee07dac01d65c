"""Classifier: a network seen as a body that makes features and a linear head that can grow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Classifier(nn.Module):
    """``head(features(x))``, where the head has one row per class.

    Args:
        body: from images (B, C, H, W) to features; whatever it returns is flattened to (B, D).
        head: a linear layer from D features to the classes.

    >>> model = Classifier(nn.Flatten(), nn.Linear(4, 3))
    >>> model(torch.zeros(2, 1, 2, 2)).shape, model.features(torch.zeros(2, 1, 2, 2)).shape
    (torch.Size([2, 3]), torch.Size([2, 4]))
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def features(self, x: Tensor) -> Tensor:
        """(B, D) of images (B, C, H, W)."""
        features: Tensor = self.body(x)
        return features.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        logits: Tensor = self.head(self.features(x))
        return logits

    def expand(self, classes: int, generator: torch.Generator | None = None) -> None:
        """Enlarges the head to ``classes`` rows; the logits of the old classes stay as they were.

        The head is a new layer afterwards: an optimizer made before does not know it.

        Args:
            generator: draws the new rows, uniformly in +-1 / sqrt(D) as `torch.nn.Linear` does; without one they are
                zero, which lets the new classes start level and costs a linear layer nothing.

        Raises:
            ValueError: fewer classes than the head has.

        >>> model = Classifier(nn.Flatten(), nn.Linear(4, 3))
        >>> model.expand(5)
        >>> model(torch.zeros(2, 1, 2, 2)).shape
        torch.Size([2, 5])
        """
        old = self.head
        if classes < old.out_features:
            raise ValueError(f"classes is {classes}; expected at least the {old.out_features} that the head has")
        if classes == old.out_features:
            return
        new = nn.utils.skip_init(
            nn.Linear,
            old.in_features,
            classes,
            bias=old.bias is not None,
            device=old.weight.device,
            dtype=old.weight.dtype,
        )
        bound = old.in_features**-0.5
        with torch.no_grad():
            for (_, values), before in zip(new.named_parameters(), old.parameters(), strict=True):
                added = torch.zeros(classes - old.out_features, *values.shape[1:])
                if generator is not None:
                    added.uniform_(-bound, bound, generator=generator)
                values.copy_(torch.cat([before, added.to(before)]))
                values.requires_grad_(before.requires_grad)
        self.head = new.train(old.training)


class MLP(Classifier):
    """Fully connected layers with ReLU, all weights Xavier-uniform and all biases zero: the network of the
    class-incremental MNIST tables (Buzzega et al., "Dark Experience for General Continual Learning", 2020).

    Args:
        channels: of the images.
        size: side of the images in pixels.
        classes: rows of the head.
        hidden: widths of the hidden layers.

    >>> MLP(1, 28, 10).features(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 100])
    """

    def __init__(self, channels: int, size: int, classes: int, hidden: Sequence[int] = (100, 100)) -> None:
        input_size = channels * size * size
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise((input_size, *hidden)):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(nn.Sequential(*layers), nn.Linear((input_size, *hidden)[-1], classes))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)


class Conv4(Classifier):
    """Four blocks of 3x3 convolution, batch normalisation, ReLU and 2x2 max pooling: the small network of few-shot
    learning (Vinyals et al., "Matching Networks for One Shot Learning", 2016; Snell et al., "Prototypical Networks
    for Few-shot Learning", 2017). Images too small to be halved four times are halved as often as they can be.

    Args:
        channels: of the images.
        size: side of the images in pixels.
        classes: rows of the head.
        width: channels of every block.

    >>> Conv4(3, 84, 5).head.in_features, Conv4(1, 8, 10).head.in_features
    (1600, 64)
    """

    def __init__(self, channels: int, size: int, classes: int, width: int = 64) -> None:
        blocks = nn.Sequential(*(_Block(channels if i == 0 else width, width) for i in range(4)))
        side = size
        for _ in range(4):
            side = max(1, side // 2)
        super().__init__(blocks, nn.Linear(width * side * side, classes))


class _Block(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.convolution(x)))
        return functional.max_pool2d(x, 2) if x.shape[-1] > 1 else x


class Normalize(nn.Module):
    """``(x - mean) / std`` per channel; a single channel is spread over all that ``mean`` has."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    mean: Tensor
    std: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


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
            _load_body(network, Path(str(weights)), place[0])
        super().__init__(nn.Sequential(Normalize(mean, std), network), nn.Linear(last.in_features, classes))


def _load_body(network: nn.Module, path: Path, classifier: str) -> None:
    """Copies a state dict of the whole model into ``network``, whose layer ``classifier`` is gone."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name: values for name, values in state.items() if not name.startswith(f"{classifier}.")}
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(
            f"{path} holds other weights than the model: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
