from pathlib import Path

import pytest
import torch

from memreplay.core.protocols import Sessions
from memreplay.vision_cls import MLP, ImageSet
from memreplay.vision_cls.data.few_shot_stream import FewShotStream
from memreplay.vision_cls.recipes import episodes


@pytest.fixture
def stream() -> FewShotStream:
    """A hundred classes of images that are noise about one pattern each: 60 base ones, then five more per session."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(100, 3, 4, 4, generator=generator)

    def images(each: int) -> ImageSet:
        labels = torch.arange(100).repeat_interleave(each)
        noise = torch.rand(len(labels), 3, 4, 4, generator=generator)
        pixels = ((patterns[labels] + noise) * 127).byte()
        return ImageSet(pixels, labels, tuple(f"n{i:08d}" for i in range(100)), "train")

    train = images(20)
    return FewShotStream(train, images(25), Sessions(train.labels, base=60, way=5, shot=5))


def test_the_table(stream: FewShotStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"EPISODES": 5, "TUNING": 2}.items():
        monkeypatch.setattr(episodes, name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(episodes, "TorchvisionModel", lambda *args, **options: MLP(3, 4, 1, (64,)))
    monkeypatch.setattr(episodes, "mini_imagenet_stream", lambda root: stream)
    monkeypatch.setattr(episodes, "SIZE", 4)
    (tmp_path / "weights_vision").mkdir()
    (tmp_path / episodes.WEIGHTS).write_bytes(b"")
    results = episodes.reproduce(data=tmp_path, out=tmp_path / "out", only=["ncm", "cl2n", "calibration"])
    assert [(row.name, row.metric, row.seeds) for row in results.rows[:2]] == [
        ("ncm", "5-way 1-shot", 5), ("ncm", "5-way 5-shot", 5),
    ]  # fmt: skip
    assert all(row.ours > 60 for row in results.rows if row.metric == "5-way 5-shot")
    assert results.config["calibration 1-shot"].startswith("k=")
    assert results.memory_bytes > 60 * 48 * 48 * 8


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only is 'ncmm'"):
        episodes.reproduce(out=tmp_path, only=["ncmm"])
    with pytest.raises(FileNotFoundError, match=r"mobilenet_v2_imagenet_features\.safetensors; expected the weights"):
        episodes.reproduce(data=tmp_path, out=tmp_path)
