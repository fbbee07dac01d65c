"""read_checkpoint: the weights in files of detectron2, also those of its model zoo, without running what is in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn

from ..backbones import read_weights

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}
"""All that weights of the model zoo are made of; anything else in a file is refused."""


class _Weights(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return super().find_class(module, name)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], str | None]:
    """The weights in a ``.pkl`` file of the model zoo, a ``.pth`` file of detectron2's, or safetensors.

    Returns:
        The weights by name, and where names are those of another library, which one: ``Caffe2`` or another author.

    Raises:
        ValueError: the file holds anything but weights.
    """
    path = Path(path)
    if path.suffix != ".pkl":
        return read_weights(path), None
    try:
        with path.open("rb") as file:
            found = _Weights(file, encoding="latin1").load()
        blobs = found.get("model", found.get("blobs", found))
        weights = {
            str(name): torch.from_numpy(np.array(values))
            for name, values in blobs.items()
            if isinstance(values, np.ndarray) and not str(name).endswith("_momentum")
        }
    except (pickle.UnpicklingError, AttributeError, EOFError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds something other than weights: {error}") from error
    if not weights:
        raise ValueError(f"{path} holds no weights")
    if "__author__" not in found:
        return weights, "Caffe2"
    return weights, str(found["__author__"]) if found.get("matching_heuristics") else None


def load_checkpoint(model: nn.Module, path: str | Path) -> list[str]:
    """Puts the weights of a file into a model of detectron2. Layers of another size, such as the predictor of another
    number of classes, stay as they are.

    Returns:
        Names of the weights of the model that were not in the file, or of another size there.

    Raises:
        ValueError: the file holds something else, or no weight of this model.
    """
    weights, author = read_checkpoint(path)
    own: Mapping[str, Tensor] = model.state_dict()
    if author is not None:
        weights = align_and_update_state_dicts(dict(own), weights, c2_conversion=author == "Caffe2")
    fitting = {n: values for n, values in weights.items() if n in own and own[n].shape == values.shape}
    if not fitting:
        raise ValueError(f"{path} holds no weight of this model; it has {next(iter(weights))!r}, for example")
    model.load_state_dict(fitting, strict=False)
    return sorted(own.keys() - fitting.keys())
