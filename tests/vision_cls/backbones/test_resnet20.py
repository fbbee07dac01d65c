from pathlib import Path

import pytest
import torch

from memreplay.vision_cls import ResNet20


def test_the_published_size() -> None:
    """He et al. give 0.27 million weights for 20 layers and 0.46 for 32; the shortcuts here add 2,752."""
    for depth, expected in ((3, 0.27), (5, 0.46)):
        model = ResNet20(3, 32, 10, depth=depth)
        assert sum(values.numel() for values in model.parameters()) / 1e6 == pytest.approx(expected, abs=0.01)


def test_stages_halve_the_image() -> None:
    model = ResNet20(3, 32, 5).eval()
    x = torch.rand(2, 3, 32, 32)
    body = model.body
    seen = []
    for stage in (body.layer1, body.layer2, body.layer3):
        stage.register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape[1:])))
    assert model.features(x).shape == (2, 64)
    assert seen == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert model(x).shape == (2, 5)


def test_a_checkpoint_with_a_wrapper_and_a_classifier(tmp_path: Path) -> None:
    model = ResNet20(3, 32, 5).eval()
    state = {f"module.encoder.{name}": values for name, values in model.body.state_dict().items()}
    state["module.fc.weight"] = torch.zeros(100, 64)
    torch.save({"params": state}, tmp_path / "session0.pth")
    twin = ResNet20(3, 32, 5, weights=tmp_path / "session0.pth").eval()
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(twin.features(x), model.features(x))
