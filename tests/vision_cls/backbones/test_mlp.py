import math

import pytest
import torch
from torch import nn

from memreplay.vision_cls import MLP


def test_mlp_is_the_published_network() -> None:
    model = MLP(1, 28, 10)
    assert [tuple(values.shape) for values in model.parameters()] == [
        (100, 784), (100,), (100, 100), (100,), (10, 100), (10,),
    ]  # fmt: skip
    for layer in (layer for layer in model.modules() if isinstance(layer, nn.Linear)):
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert not layer.bias.any()


def test_mlp_by_hand() -> None:
    model = MLP(1, 2, 3, hidden=(5,))
    x = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    (w1, b1, w2, b2) = model.parameters()
    hidden = (x.flatten(1) @ w1.T + b1).clamp(min=0)
    torch.testing.assert_close(model.features(x), hidden)
    torch.testing.assert_close(model(x), hidden @ w2.T + b2)
