"""Weights: a network's state dict from a local file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

WRAPPERS = ("state_dict", "model", "params", "teacher")
"""Names under which training scripts put the state dict into their checkpoints."""
PREFIXES = ("module.", "encoder.", "backbone.", "body.")
"""What wrappers put before the names of weights; dropped where all that a model has is named so."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A state dict from ``.safetensors`` or a file of ``torch.save``, which is read with ``weights_only``. Checkpoints
    that hold it under a name of `WRAPPERS` are opened.

    Raises:
        ValueError: no such file, or no tensors in it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"weights is {str(path)!r}, which is no file; expected a state dict, .safetensors or .pth")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not any(isinstance(values, Tensor) for values in state.values()):
        raise ValueError(f"{path} holds no state dict; expected tensors by name")
    return {name: values for name, values in state.items() if isinstance(values, Tensor)}


def load_weights(network: nn.Module, path: str | Path, ignore: str | tuple[str, ...] = ()) -> None:
    """Copies a state dict into ``network``; half-precision weights are cast to what it has.

    Args:
        network: gets the weights.
        path: see `read_weights`. Names that all begin with one of `PREFIXES` are taken without it, for instance the
            ``module.encoder.conv1.weight`` of CEC's checkpoints; weights beside such a part are left out.
        ignore: weights whose names begin so, or with one of these, are left out: those of a classifier.

    Raises:
        ValueError: weights of another model.
    """
    known = network.state_dict()
    state = read_weights(path)
    while not known.keys() & state.keys():
        prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): values for name, values in state.items() if name.startswith(prefix)}
    state = {name: values for name, values in state.items() if not name.startswith(ignore)}
    missing = [name for name in known if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in known]
    differing = [name for name, values in state.items() if name in known and known[name].shape != values.shape]
    if missing or unexpected or differing:
        raise ValueError(
            f"{path} holds other weights than the model: missing {missing[:3]}, unexpected {unexpected[:3]}, "
            f"of another shape {differing[:3]}"
        )
    network.load_state_dict(state, strict=False)
