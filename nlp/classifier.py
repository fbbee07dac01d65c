"""TextClassifier: an encoder and a head that are trained together, whole layers or LoRA."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.heads import LinearHead
from .below import LayersBelow
from .encoder import TextEncoder


class TextClassifier(nn.Module):
    """Token ids to logits and vectors. Only the top layers and the head have gradients: the embeddings of the tokens
    and the layers below stay as they are, and run without dropout.

    Args:
        encoder: it is changed.
        head: on its vectors.
        layers: how many layers learn, from the top; all if there are fewer.
        lora: instead of the weights themselves, corrections of so low a rank are learned to the linear layers (Hu et
            al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022), by ``peft``.
        seed: of the corrections.
    """

    def __init__(
        self, encoder: TextEncoder, head: LinearHead, layers: int, lora: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        encoder.body.requires_grad_(False)
        place = _layers_place(encoder)
        self._top = nn.ModuleList(transformer_layers(encoder)[-layers:])
        if lora is None:
            self._top.requires_grad_(True)
        else:
            _add_lora(encoder.body, self._top, lora, seed)
        self._below = LayersBelow(encoder, place, self._top)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """``logits`` (B, C) and ``feature`` (B, D) of token ids in the jagged layout."""
        feature = self._below(tokens)
        return {"logits": self.head(feature), "feature": feature}

    def train(self, mode: bool = True) -> TextClassifier:
        """Layers that do not learn run as they do in use."""
        super().train(False)
        self._top.train(mode)
        return self

    def body_parameters(self) -> list[nn.Parameter]:
        """What learns in the encoder."""
        return [values for values in self.encoder.body.parameters() if values.requires_grad]

    def finish(self) -> TextEncoder:
        """The encoder as it is after training: LoRA is merged into the weights, and the fingerprint is a new one."""
        self._below.close()
        body = self.encoder.body
        learned = [name for name, values in body.named_parameters() if values.requires_grad]
        if any(".lora_" in name for name in learned):
            learned = _merge_lora(body)
        self.encoder.requires_grad_(True).eval()
        self.encoder.weights_changed(learned)
        return self.encoder


def transformer_layers(encoder: TextEncoder) -> list[nn.Module]:
    """The layers of an encoder, from the lowest.

    Raises:
        ValueError: they cannot be found.
    """
    return list(encoder.body.get_submodule(_layers_place(encoder)).children())


def _layers_place(encoder: TextEncoder) -> str:
    """Where the list of layers is among the modules of the body."""
    depth = getattr(encoder.body.config, "num_hidden_layers", None)
    for name, module in encoder.body.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return str(name)
    raise ValueError(f"encoder is {encoder.name}, whose {depth} layers are in no list; expected one, as in BERT")


def _add_lora(body: nn.Module, layers: nn.Module, rank: int, seed: int) -> None:
    """Adds corrections to the linear layers within ``layers``, a part of ``body``."""
    from peft import LoraConfig, inject_adapter_in_model

    if rank < 1:
        raise ValueError(f"lora is {rank}; expected a rank of at least 1")
    linear = {id(layer) for layer in layers.modules() if isinstance(layer, nn.Linear)}
    names = [name for name, layer in body.named_modules() if id(layer) in linear]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), body)


def _merge_lora(body: nn.Module) -> list[str]:
    """Puts the corrections into the weights; the names of these."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {name: layer for name, layer in body.named_modules() if isinstance(layer, BaseTunerLayer)}
    for name, layer in layers.items():
        layer.merge()
        body.set_submodule(name, layer.get_base_layer())
    return [f"{name}.weight" for name in layers]
