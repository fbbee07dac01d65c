from pathlib import Path

import pytest
import torch
from torch import nn

from memreplay.vision_cls import MLP, Classifier, Conv4
from memreplay.vision_cls.backbones import Normalize
from memreplay.vision_cls.features import features_of, folded


def images(n: int = 5, size: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_features_are_those_of_the_network_in_evaluation() -> None:
    model, x = Conv4(3, 12, 4), images()
    found = features_of(model, x, batch=2)
    assert model.training
    assert not found.requires_grad
    torch.testing.assert_close(found, model.eval().features(x.float() / 255))


def test_learned_statistics_are_folded_into_the_convolutions() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
    model, x = Classifier(chain, nn.Linear(4 * 8 * 8, 2)), images()
    generator = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.running_mean, layer.running_var, layer.weight.data, layer.bias.data):
                assert values is not None
                values.uniform_(0.5, 2, generator=generator)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded(model).modules())
    before = {name: values.clone() for name, values in model.state_dict().items()}
    found = features_of(model, x)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    torch.testing.assert_close(found, model.eval().features(x))


def test_images_are_resized_as_pillow_does() -> None:
    import numpy as np
    from PIL import Image

    x = images(1, 20)
    larger = Image.fromarray(x[0].permute(1, 2, 0).numpy()).resize((31, 31), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(larger)).permute(2, 0, 1).float() / 255
    found = features_of(Classifier(nn.Flatten(), nn.Linear(31 * 31 * 3, 1)), x, size=31)
    assert float((found.view(3, 31, 31) - expected).abs().max()) <= 1.01 / 255


def test_the_cache_tells_pixels_sizes_and_networks_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = MLP(3, 12, 2, (8,)), images()
    plain = features_of(model, x)
    assert torch.equal(features_of(model, x, cache=tmp_path), plain)
    monkeypatch.setattr(model, "features", lambda x: pytest.fail("computed again"))
    assert torch.equal(features_of(model, x.flip(0), cache=tmp_path), plain.flip(0))
    monkeypatch.undo()
    x[2] = 255 - x[2]
    torch.testing.assert_close(features_of(model, x, cache=tmp_path), features_of(model, x))
    with torch.no_grad():
        model.body[1].bias += 1  # type: ignore[index]
    torch.testing.assert_close(features_of(model, x, cache=tmp_path), features_of(model, x))
    body = model.body
    for mean in (0.0, 0.5):  # not among the weights
        model.body = nn.Sequential(Normalize([mean] * 3, [1.0] * 3), body)
        torch.testing.assert_close(features_of(model, x, cache=tmp_path), features_of(model, x))


def test_no_image() -> None:
    with pytest.raises(ValueError, match="images is empty"):
        features_of(MLP(3, 12, 2), images(0))
