from pathlib import Path

import pytest
import torch
from torch import nn

from memreplay.vision_cls import TorchvisionModel


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


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
