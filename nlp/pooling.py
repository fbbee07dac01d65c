"""Pooling: from the hidden states of an encoder to one vector per text."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Token = Literal["mean", "cls", "last"]
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class Pooling:
    """Which token stands for a text, of which layers.

    Args:
        token: ``"mean"`` over all tokens, ``"cls"``, the first one, or ``"last"``, the last that is no padding.
        layers: the mean of these layers, counted from 1 (0 is the embedding of the tokens), or from the end if
            negative; None for the last one.
        normalize: whether vectors get length 1.
        also: if given, a vector has a second half: the mean of these layers. Both halves have the same length, and the
            whole has length 1: its cosines are the means of those of the halves.
    """

    token: Token = "mean"
    layers: tuple[int, ...] | None = None
    normalize: bool = True
    also: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.token not in get_args(Token):
            raise ValueError(f"token is {self.token!r}; expected 'mean', 'cls' or 'last'")
        if self.also is not None and not self.normalize:
            raise ValueError(f"also is {self.also}, but normalize is False; expected halves of one length")

    @property
    def deep(self) -> bool:
        """Whether other layers than the last are wanted."""
        return self.layers is not None or self.also is not None

    def width(self, dim: int) -> int:
        """Numbers per vector, where a hidden state has ``dim``."""
        return dim if self.also is None else 2 * dim

    def __call__(self, states: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Vectors (B, D).

        Args:
            states: (B, T, D) of every layer, that of the embeddings first; or of the last layer alone.
            mask: (B, T), 1 for tokens and 0 for padding, which follows them; None where there is none.
        """
        found = self._pooled(states, self.layers, mask)
        if self.also is None:
            return found
        return torch.cat([found, self._pooled(states, self.also, mask)], 1) / math.sqrt(2)

    def _pooled(self, states: Sequence[Tensor], layers: tuple[int, ...] | None, mask: Tensor | None) -> Tensor:
        hidden = states[-1]
        if layers is not None:
            hidden = torch.stack([states[layer] for layer in layers]).mean(0)
        if self.token == "cls":
            pooled = hidden[:, 0]
        elif self.token == "last":
            pooled = hidden[:, -1] if mask is None else hidden[torch.arange(len(hidden)), mask.sum(1) - 1]
        elif mask is None:
            pooled = hidden.mean(1)
        else:
            weight = mask.unsqueeze(2).to(hidden.dtype)
            pooled = (hidden * weight).sum(1) / weight.sum(1)
        return F.normalize(pooled, dim=1) if self.normalize else pooled

    @staticmethod
    def of_model(name: str) -> Pooling:
        """What the files of a model ask for, where it comes from sentence-transformers; otherwise the mean, length 1.

        Raises:
            ValueError: the files ask for a pooling that is not known here.
        """
        modules = model_json(name, "modules.json")
        if modules is None:
            return Pooling()
        kinds = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
        unknown = [kind for kind in kinds if kind not in _KNOWN_MODULES]
        if unknown:
            warnings.warn(f"{name} has the modules {unknown}, which are left out", stacklevel=3)
        config = model_json(name, f"{kinds.get('Pooling', '1_Pooling')}/config.json") or {}
        return Pooling(_token(name, config), normalize="Normalize" in kinds)


def model_json(name: str, file: str) -> Any | None:
    """A JSON file of a model, local or on the Hub; None if it has no such file."""
    from transformers.utils import cached_file

    if Path(name).is_dir():
        path = Path(name, file)
        return json.loads(path.read_text("utf-8")) if path.is_file() else None
    found = cached_file(
        name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if found is None else json.loads(Path(found).read_text("utf-8"))


def _token(name: str, config: dict[str, Any]) -> Token:
    flags = {key.removeprefix("pooling_mode_"): on for key, on in config.items() if key.startswith("pooling_mode_")}
    asked = [key for key, on in flags.items() if on] or [config.get("pooling_mode", "mean")]
    match asked:
        case ["mean_tokens" | "mean"]:
            return "mean"
        case ["cls_token" | "cls"]:
            return "cls"
        case ["lasttoken" | "last"]:
            return "last"
    raise ValueError(f"{name} asks for the pooling {asked}; choose one with pooling='mean', 'cls' or 'last'")
