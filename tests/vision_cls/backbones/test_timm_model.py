from pathlib import Path

import pytest
import timm
import torch

from memreplay.vision_cls import TimmModel


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 32), ("test_vit", 48), ("test_efficientnet", 33)])
def test_features_are_what_timm_classifies(name: str, size: int, tmp_path: Path) -> None:
    options = {"img_size": size} if "vit" in name else {}
    source = timm.create_model(name, num_classes=7, **options).eval()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = TimmModel(3, size, 5, name, tmp_path / "weights.pth").eval()
    x = torch.rand(2, 3, size, size)
    mean, std = (torch.tensor(source.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    normal = (x - mean) / std
    expected = source.forward_head(source.forward_features(normal), pre_logits=True)
    torch.testing.assert_close(model.features(x), expected)
    assert model(x).shape == (2, 5)
    assert model.features(x[:, :1]).shape == expected.shape


def test_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="expected a model of timm"):
        TimmModel(3, 32, 5, "resnet19")
    with pytest.raises(ValueError, match="channels is 2"):
        TimmModel(2, 32, 5, "test_resnet")
