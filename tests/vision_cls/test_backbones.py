import math
from pathlib import Path

import pytest
import torch
from torch import nn

from memreplay.vision_cls import MLP, Classifier, Conv4, TorchvisionModel


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


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


def test_mlp_by_hand(generator: torch.Generator) -> None:
    model = MLP(1, 2, 3, hidden=(5,))
    x = torch.randn(2, 1, 2, 2, generator=generator)
    (w1, b1, w2, b2) = model.parameters()
    hidden = (x.flatten(1) @ w1.T + b1).clamp(min=0)
    torch.testing.assert_close(model.features(x), hidden)
    torch.testing.assert_close(model(x), hidden @ w2.T + b2)


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


@pytest.mark.parametrize("seeded", [False, True])
def test_expand_keeps_the_old_rows(seeded: bool, generator: torch.Generator) -> None:
    model = MLP(1, 2, 2, hidden=(3,))
    nn.init.normal_(model.head.bias, generator=generator)
    x = torch.randn(6, 1, 2, 2, generator=generator)
    before, head = model(x), model.head
    model.expand(5, generator if seeded else None)
    after = model(x)
    assert torch.equal(model.head.weight[:2], head.weight)
    assert torch.equal(model.head.bias[:2], head.bias)
    torch.testing.assert_close(after[:, :2], before)  # a product of another shape may round otherwise
    assert after.shape == (6, 5)
    assert bool(after[:, 2:].any()) == seeded
    assert model.head.weight[2:].abs().max() <= 3**-0.5


def test_expand_same_generator_same_rows() -> None:
    heads = []
    for _ in range(2):
        model = Classifier(nn.Flatten(), nn.Linear(4, 2, bias=False, dtype=torch.float64))
        model.expand(4, torch.Generator().manual_seed(3))
        heads.append(model.head)
    assert torch.equal(heads[0].weight[2:], heads[1].weight[2:])
    assert heads[0].bias is None
    assert heads[0].weight.dtype == torch.float64


def test_expand_leaves_the_global_generator_alone_and_keeps_frozen_frozen() -> None:
    model = MLP(1, 2, 2)
    model.head.requires_grad_(False)
    state = torch.get_rng_state()
    model.expand(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(values.requires_grad for values in model.head.parameters())


def test_expand_refuses_to_shrink() -> None:
    model = MLP(1, 2, 3)
    with pytest.raises(ValueError, match="classes is 2; expected at least the 3"):
        model.expand(2)
    head = model.head
    model.expand(3)
    assert model.head is head


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("resnet18", 512),
        ("mobilenet_v2", 1280),
        ("vit_b_16", 768),
        ("swin_t", 768),
        ("convnext_tiny", 768),
        ("efficientnet_b0", 1280),
        ("shufflenet_v2_x1_0", 1024),
    ],
)
def test_torchvision_models_by_name(name: str, features: int) -> None:
    with torch.device("meta"):
        model = TorchvisionModel(3, 32, 7, name)
        x = torch.zeros(2, 3, 224, 224)
        assert model.features(x).shape == (2, features)
        assert model(x).shape == (2, 7)


def test_torchvision_model_normalises_and_takes_one_channel(generator: torch.Generator) -> None:
    model = TorchvisionModel(3, 32, 4, "resnet18", mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125)).eval()
    network = model.body[1]  # type: ignore[index]
    grey = torch.rand(2, 1, 32, 32, generator=generator)
    rgb = grey.expand(-1, 3, -1, -1)
    normal = torch.stack([(rgb[:, 0] - 0.1) / 0.5, (rgb[:, 1] - 0.2) / 0.25, (rgb[:, 2] - 0.3) / 0.125], 1)
    torch.testing.assert_close(model.features(rgb), network(normal))
    torch.testing.assert_close(model.features(grey), model.features(rgb))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("with_classifier", [False, True])
def test_torchvision_model_loads_local_weights(tmp_path: Path, suffix: str, with_classifier: bool) -> None:
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    source = resnet18(num_classes=11).eval()
    state = {name: values for name, values in source.state_dict().items() if with_classifier or "fc." not in name}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    model = TorchvisionModel(3, 32, 3, "resnet18", path, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    x = torch.rand(2, 3, 32, 32)
    source.fc = nn.Identity()
    torch.testing.assert_close(model.features(x), source(x))
    with pytest.raises(ValueError, match="other weights than the model"):
        TorchvisionModel(3, 32, 3, "resnet34", path)


def test_torchvision_model_refuses_a_pickle(tmp_path: Path) -> None:
    torch.save({"fc.weight": nn.Linear(1, 1)}, tmp_path / "hostile.pth")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        TorchvisionModel(3, 32, 3, "resnet18", tmp_path / "hostile.pth")


@pytest.mark.parametrize(
    ("name", "message"), [("resnet19", "expected a model of torchvision.models"), ("squeezenet1_0", "linear layer")]
)
def test_torchvision_model_says_what_is_wrong(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchvisionModel(3, 32, 3, name)
