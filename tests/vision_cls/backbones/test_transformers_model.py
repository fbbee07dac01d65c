from pathlib import Path

import pytest
import torch
import transformers

from memreplay.vision_cls import TransformersModel

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": 16, "patch_size": 8}
TEXT = {**SMALL, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
CONFIGS = {
    "clip": transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12),
    "siglip": transformers.SiglipConfig(text_config=TEXT, vision_config=VISION),
    "dino": transformers.ViTConfig(**VISION),
    "dinov2": transformers.Dinov2Config(**VISION),
    "convnext": transformers.ConvNextConfig(hidden_sizes=[4, 4, 4, 8], depths=[1, 1, 1, 1], image_size=32),
}


@pytest.fixture
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a tiny model with random weights, and what its image processor would say."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModel.from_config(CONFIGS[request.param]).save_pretrained(tmp_path)
    processor = transformers.CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.25, 0.125])
    processor.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("saved", CONFIGS, indirect=True)
def test_features(saved: Path, request: pytest.FixtureRequest) -> None:
    model = TransformersModel(3, 16, 5, str(saved)).eval()
    side = 32 if model.head.in_features == 8 else 16
    x = torch.rand(2, 3, side, side)
    normal = (x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1)
    source = transformers.AutoModel.from_pretrained(saved).eval()
    with torch.no_grad():
        if hasattr(source, "visual_projection"):
            expected = source.visual_projection(source.vision_model(normal).pooler_output)
        elif hasattr(source, "vision_model"):
            expected = source.vision_model(normal).pooler_output
        elif side == 16:
            expected = source(normal).last_hidden_state[:, 0]
        else:
            expected = source(normal).pooler_output
        torch.testing.assert_close(model.features(x), expected)
        assert model(x).shape == (2, 5)
        assert model.features(torch.rand(2, 1, 20, 20)).shape == expected.shape


@pytest.mark.parametrize("saved", ["dino"], indirect=True)
def test_random_and_local_weights(saved: Path, tmp_path: Path) -> None:
    x = torch.rand(1, 3, 16, 16)
    with torch.random.fork_rng(), torch.no_grad():
        own = TransformersModel(3, 16, 5, str(saved)).eval()
        blank = TransformersModel(3, 16, 5, str(saved), pretrained=False).eval()
        given = TransformersModel(3, 16, 5, str(saved), weights=saved / "model.safetensors").eval()
        assert not torch.allclose(own.features(x), blank.features(x))
        torch.testing.assert_close(own.features(x), given.features(x))


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which cannot be loaded"):
        TransformersModel(3, 16, 5, str(tmp_path / "nothing"))
