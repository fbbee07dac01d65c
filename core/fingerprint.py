"""Fingerprint: a checksum that names what computed the features of a memory."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def fingerprint(model: nn.Module, *more: str) -> str:
    """A checksum of the weights and buffers of ``model``, by name, and of whatever else its outputs depend on.

    Args:
        model: on any device.
        more: texts, such as a tokenizer or the settings of a preprocessing.

    >>> layer = nn.Linear(2, 2)
    >>> before = fingerprint(layer)
    >>> _ = nn.init.zeros_(layer.weight)
    >>> fingerprint(layer) == before, fingerprint(layer) == fingerprint(layer, "size 84")
    (False, False)
    """
    content = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        content.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        content.update(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    for text in more:
        content.update(text.encode())
    return content.hexdigest()
