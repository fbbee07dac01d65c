import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from memreplay.vision_cls import MLP, Classifier, Conv4, TorchvisionModel
from memreplay.vision_cls.encoder import ImageEncoder


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_vectors_are_the_features_scaled() -> None:
    model = Conv4(3, 16, 5, width=4).eval()
    x = images(70, 3, 16, 16)
    with torch.no_grad():
        features = model.features(x.double().div(255).float())
    by_row = ImageEncoder(model, 3, 16).embed(x)
    torch.testing.assert_close(by_row, features / features.norm(dim=1, keepdim=True))
    torch.testing.assert_close(ImageEncoder(model, 3, 16, scale=4.0).embed(x), features / 4)
    torch.testing.assert_close(ImageEncoder(model, 3, 16).embed(x.float() / 255), by_row)
    with pytest.raises(ValueError, match=r"images have shape \(3, 8, 8\); expected \(3, 16, 16\)"):
        ImageEncoder(model, 3, 16).embed(images(2, 3, 8, 8))


@pytest.mark.parametrize(
    "model",
    [
        MLP(1, 8, 10, hidden=[6]),
        Conv4(1, 8, 10, width=4),
        TorchvisionModel(1, 8, classes=2, name="shufflenet_v2_x0_5", mean=(0.5, 0.5, 0.5)),
    ],
)
def test_it_can_be_written_down(model: Classifier) -> None:
    encoder = ImageEncoder(model, 1, 8)
    described: dict[str, Any] = json.loads(json.dumps(encoder.description()))
    other = ImageEncoder.of_description(described, encoder.tuned_weights(), device="cpu")
    assert other.fingerprint() == encoder.fingerprint() == described["fingerprint"]
    x = images(3, 1, 8, 8)
    assert torch.equal(other.embed(x), encoder.embed(x))


def test_weights_are_not_looked_for_where_they_came_from(tmp_path: Any) -> None:
    source = TorchvisionModel(3, 16, 2, "shufflenet_v2_x0_5")
    torch.save(source.body[1].state_dict(), tmp_path / "weights.pth")  # type: ignore[index]
    encoder = ImageEncoder(TorchvisionModel(3, 16, 2, "shufflenet_v2_x0_5", tmp_path / "weights.pth"), 3, 16)
    described = json.loads(json.dumps(encoder.description()))
    (tmp_path / "weights.pth").unlink()
    again = ImageEncoder.of_description(described, encoder.tuned_weights(), device="cpu")
    assert again.fingerprint() == encoder.fingerprint()


def test_the_fingerprint_is_that_of_the_vectors() -> None:
    model = MLP(1, 8, 10)
    first = ImageEncoder(model, 1, 8).fingerprint()
    nn.init.zeros_(model.head.weight)
    assert ImageEncoder(model, 1, 8).fingerprint() == first
    assert ImageEncoder(model, 1, 8, scale=2.0).fingerprint() != first
    with torch.no_grad():
        model.body[1].bias[0] = math.pi  # type: ignore[index]
    assert ImageEncoder(model, 1, 8).fingerprint() != first


class Mine(Classifier):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, width)), nn.Linear(width, 2))


def test_a_network_of_ones_own() -> None:
    encoder = ImageEncoder(Mine(3), 1, 8)
    with pytest.raises(ValueError, match=r"the network is a 'Mine', none of .*; pass network="):
        ImageEncoder.of_description(encoder.description(), encoder.tuned_weights())
    again = ImageEncoder.of_description(encoder.description(), encoder.tuned_weights(), Mine, "cpu")
    assert torch.equal(again.embed(images(2, 1, 8, 8)), encoder.embed(images(2, 1, 8, 8)))
    with pytest.raises(ValueError, match="the weights are of another network than Mine"):
        ImageEncoder.of_description(encoder.description(), ImageEncoder(Mine(4), 1, 8).tuned_weights(), Mine)


def test_modules_cannot_be_written_down() -> None:
    encoder = ImageEncoder(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), nn.Linear(3, 2)), 1, 8)
    with pytest.raises(ValueError, match="made with body, a Sequential, which cannot be written down"):
        encoder.description()
