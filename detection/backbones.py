"""Backbones: the convolutions of a classifier, for a detector or to look at regions with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

PUBLISHED = "published"
"""In place of a file: the weights that torchvision publishes."""


def backbone(name: str, weights: str | Path | None = None) -> nn.Module:
    """The convolutions of a classifier of torchvision, their batch statistics frozen.

    Args:
        name: what torchvision calls it, such as ``resnet50``, ``mobilenet_v2``; or ``small``, see `small`.
        weights: a file with weights for it, see `read_weights`; `PUBLISHED`: torchvision's own, which are downloaded;
            None: random ones.

    Raises:
        ValueError: there is no such classifier, it has no published weights, or those in the file are not its own.
        OSError: the file cannot be read, or the weights cannot be downloaded.
    """
    import torchvision.models

    if name == "small":
        model: nn.Module = small()
        if weights == PUBLISHED:
            raise ValueError("weights is null and backbone is 'small', which has no published ones; expected a file")
    elif name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f"backbone is {name!r}; expected a classifier of torchvision by name, or small")
    else:
        model = torchvision.models.get_model(name, weights="DEFAULT" if weights == PUBLISHED else None)
    _freeze_statistics(model)
    body = cast(nn.Module, getattr(model, "features", model))
    if weights not in (None, PUBLISHED):
        _load(model, body, Path(weights))
    return body


def _freeze_statistics(model: nn.Module) -> None:
    """Exchanges layers with batch statistics for such as never change them."""
    from torchvision.ops import FrozenBatchNorm2d

    for module in list(model.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(layer.num_features, layer.eps)
                frozen.load_state_dict(layer.state_dict())
                setattr(module, name, frozen)


def stages(body: nn.Module) -> dict[int, tuple[str, int]]:
    """The last layer at every stride, and its channels, of layers that run one after the other.

    Raises:
        ValueError: the layers do not run so.
    """
    found: dict[int, tuple[str, int]] = {}
    x = torch.zeros(1, 3, 128, 128)
    with torch.no_grad():
        for name, layer in body.named_children():
            try:
                x = layer(x)
            except (AssertionError, RuntimeError, TypeError) as error:
                raise ValueError(f"the layers of the backbone do not run one after the other: {error}") from error
            if x.dim() != 4 or x.shape[-1] < 2:
                break
            found[128 // x.shape[-1]] = (name, x.shape[1])
    return found


def fixing(body: nn.Module, layers: int) -> nn.Module:
    """``body``, changed in place: the parameters of its first layers become buffers, which keep their names.

    Raises:
        ValueError: it has not so many layers.
    """
    every = list(body.children())
    if not 0 <= layers <= len(every):
        raise ValueError(f"fixed is {layers}; expected at most the {len(every)} layers of the backbone")
    for layer in every[:layers]:
        for module in layer.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
    return body


def small() -> nn.Sequential:
    """Four stages of convolutions, strides 2 to 16, without batch statistics: for digits and the like."""
    layers: list[nn.Module] = []
    width = 3
    for channels in (16, 32, 64, 64):
        convolutions = (nn.Conv2d(width, channels, 3, 2, 1), nn.Conv2d(channels, channels, 3, 1, 1))
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        layers.append(nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU()))
        width = channels
    return nn.Sequential(*layers)


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from PyTorch's format without running code.

    Raises:
        ValueError: the file holds anything else.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not all(isinstance(values, Tensor) for values in loaded.values()):
        raise ValueError(f"weights is {str(path)!r}, which holds no state dict")
    return dict(loaded)


def _load(model: nn.Module, body: nn.Module, path: Path) -> None:
    weights = {name: values.float() for name, values in read_weights(path).items()}
    used = {id(values) for values in (*body.parameters(), *body.buffers())}
    needed = {n for n, values in (*model.named_parameters(), *model.named_buffers()) if id(values) in used}
    lacking = sorted(name for name in needed - weights.keys() if not name.startswith("fc."))
    if lacking:
        raise ValueError(f"weights is {str(path)!r}, which lacks {len(lacking)} tensors, such as {lacking[0]!r}")
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"weights is {str(path)!r}: {error}") from error
