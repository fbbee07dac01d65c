from pathlib import Path

import pytest
import torch

from memreplay.vision_cls import ResNet12


def test_the_published_size() -> None:
    """Four blocks with three 3x3 and one 1x1 convolution and as many normalisations: 12.4 million weights."""
    model = ResNet12(3, 84, 5)
    inputs, widths = (3, 64, 160, 320), (64, 160, 320, 640)
    expected = sum(9 * a * b + 2 * 9 * b * b + a * b + 4 * 2 * b for a, b in zip(inputs, widths, strict=True))
    assert sum(values.numel() for values in model.body.parameters()) == expected == 12_424_320


@pytest.mark.parametrize("size", [84, 16, 8, 3])
def test_images_of_any_size(size: int) -> None:
    model = ResNet12(1, size, 5, widths=(4, 6, 8, 10)).eval()
    assert model.features(torch.rand(2, 1, size, size)).shape == (2, 10)
    assert model(torch.rand(2, 1, size, size)).shape == (2, 5)


def test_places_are_dropped_in_training_only() -> None:
    x = torch.rand(2, 3, 16, 16)
    with torch.random.fork_rng():
        model = ResNet12(3, 16, 5, widths=(4, 4, 4, 4), drop=0.5)
        assert not torch.equal(model.features(x), model.features(x))
        model.eval()
        assert torch.equal(model.features(x), model.features(x))


def test_its_own_weights_load(tmp_path: Path) -> None:
    model = ResNet12(3, 16, 5, widths=(4, 4, 4, 4)).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    twin = ResNet12(3, 16, 9, widths=(4, 4, 4, 4), weights=tmp_path / "weights.pth").eval()
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(twin.features(x), model.features(x))
