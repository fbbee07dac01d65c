import pytest
import torch

from memreplay.vision_cls import Conv4


@pytest.mark.parametrize(
    ("channels", "size", "features"), [(3, 84, 1600), (1, 28, 64), (3, 32, 256), (1, 8, 64), (1, 1, 64)]
)
def test_conv4_shapes(channels: int, size: int, features: int) -> None:
    model = Conv4(channels, size, classes=5)
    x = torch.zeros(2, channels, size, size)
    assert model.features(x).shape == (2, features)
    assert model(x).shape == (2, 5)


def test_conv4_has_the_published_number_of_weights() -> None:
    # 3x3x3x64 + 64 and three times 3x3x64x64 + 64, each with 2 x 64 of batch normalisation
    body = Conv4(3, 84, 5).body
    assert sum(values.numel() for values in body.parameters()) == 113_088
