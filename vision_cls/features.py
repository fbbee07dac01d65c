"""Features: images to vectors by a frozen network, computed once."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..core.batch import batch_size
from ..core.fingerprint import fingerprint
from ..core.vector_cache import VectorCache, cache_folder
from .backbones import Classifier
from .data import ImageSet

_AT_ONCE = 1024
"""Vectors that are made before they are written."""


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/memreplay/features``, by default in ``~/.cache``."""
    return cache_folder("features")


def features_of(
    model: Classifier,
    images: ImageSet | Tensor,
    *,
    size: int | None = None,
    cache: str | Path | None = None,
    batch: int = 16,
) -> Tensor:
    """Features (N, D) of images, float32 on the CPU, without gradients and with batch statistics as they are.

    Args:
        model: where it is; it may be in training, and is afterwards as it was.
        images: N of them, (N, C, H, W), uint8 or float32 in [0, 1].
        size: side in pixels to bring them to, bicubic; None: as they are.
        cache: a folder where features are kept, keyed by the pixels, the size and the network with its weights; see
            `default_cache`.
        batch: images at a time. On a processor few are quicker than many.

    Raises:
        ValueError: no images.

    >>> from memreplay.vision_cls import MLP, digits
    >>> features_of(MLP(1, 8, 10), digits("test")).shape
    torch.Size([539, 100])
    """
    pixels = images.images if isinstance(images, ImageSet) else images
    if not batch_size({"input": pixels}, "images"):
        raise ValueError("images is empty; expected at least one image")
    if cache is None:
        return _compute(model, pixels, size, batch)
    kept = VectorCache(cache, fingerprint(model.body, repr(model.body), f"size {size}"))
    contents = [image.numpy() for image in pixels.cpu().contiguous()]
    return kept(contents, lambda rows: _compute(model, pixels[rows], size, batch), _AT_ONCE)


def _compute(model: Classifier, pixels: Tensor, size: int | None, batch: int) -> Tensor:
    from torchvision.transforms.v2 import functional
    from tqdm import tqdm

    device = next((values.device for values in model.state_dict().values()), pixels.device)
    frozen = folded(model)
    found = []
    with torch.inference_mode():
        for part in tqdm(pixels.split(batch), "features", disable=None, leave=False):
            if size is not None and part.shape[-2:] != (size, size):
                bicubic = functional.InterpolationMode.BICUBIC
                part = functional.resize(part, [size, size], bicubic, antialias=True)
            part = part.to(device, memory_format=torch.channels_last)
            found.append(frozen.features(part).float().cpu())
    return torch.cat(found)


def folded(model: Classifier) -> Classifier:
    """A copy in evaluation mode, with every BatchNorm that follows a convolution in an `nn.Sequential` made part of it,
    which saves a MobileNetV2 a third of its time. Features differ by rounding at most."""
    model = copy.deepcopy(model).eval()
    for chain in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for (before, first), (after, second) in pairwise(list(chain.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d) and second.track_running_stats:
                chain.set_submodule(before, fuse_conv_bn_eval(first, second))
                chain.set_submodule(after, nn.Identity())
    return model
