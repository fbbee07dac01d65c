"""Classifier: a network seen as a body that makes features and a linear head that can grow."""

from __future__ import annotations

import inspect
from typing import Any, Self

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """``head(features(x))``, where the head has one row per class.

    Images are float in [0, 1], or uint8, which are divided by 255.

    Args:
        body: from images (B, C, H, W) to features; whatever it returns is flattened to (B, D).
        head: a linear layer from D features to the classes.

    >>> model = Classifier(nn.Flatten(), nn.Linear(4, 3))
    >>> model(torch.zeros(2, 1, 2, 2)).shape, model.features(torch.zeros(2, 1, 2, 2)).shape
    (torch.Size([2, 3]), torch.Size([2, 4]))
    """

    made_with: dict[str, Any]
    """The arguments of the constructor by name, those left at their defaults too."""

    def __new__(cls, *args: Any, **options: Any) -> Self:
        model = super().__new__(cls)
        # a copy is made without arguments, and gets those of the original
        bound = inspect.signature(cls.__init__).bind_partial(model, *args, **options)
        bound.apply_defaults()
        model.__dict__["made_with"] = {name: value for name, value in bound.arguments.items() if value is not model}
        return model

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def features(self, x: Tensor) -> Tensor:
        """(B, D) of images (B, C, H, W)."""
        features: Tensor = self.body(x.float() / 255 if x.dtype == torch.uint8 else x)
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
