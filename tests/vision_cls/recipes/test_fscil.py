from pathlib import Path

import pytest
import torch

from memreplay import Sessions
from memreplay.vision_cls import ImageSet
from memreplay.vision_cls.backbones import MLP, Classifier
from memreplay.vision_cls.data import FewShotStream
from memreplay.vision_cls.recipes import fscil, fscil_scratch


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FewShotStream:
    """Ten classes of coloured noise, the last four with five shots each; every recipe gets it."""
    generator = torch.Generator().manual_seed(0)
    colour = torch.randint(0, 200, (10, 3, 1, 1), generator=generator)

    def images(split: str, n: int) -> ImageSet:
        label = torch.arange(10).repeat_interleave(n)
        noise = torch.randint(0, 56, (len(label), 3, 8, 8), generator=generator)
        return ImageSet((colour[label] + noise).byte(), label, tuple("abcdefghij"), split)  # type: ignore[arg-type]

    train = images("train", 16)
    made = FewShotStream(train, images("test", 6), Sessions(train.labels, base=6, way=2, shot=5))
    for recipe in (fscil, fscil_scratch):
        monkeypatch.setattr(recipe, "mini_imagenet_stream", lambda root: made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def test_transfer(stream: FewShotStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def backbone(root: Path) -> Classifier:
        torch.manual_seed(0)
        return MLP(3, 8, 1, (32,))

    monkeypatch.setattr(fscil, "backbone", backbone)
    monkeypatch.setattr(fscil, "SIZE", 8)
    results = fscil.reproduce(out=tmp_path, seeds=1, only=["ncm", "ours"], processes=1)
    assert {row.name for row in results.rows} == {"ncm", "ours"}
    assert {row.metric for row in results.rows} >= {"base", "novel", "harmonic", "average", "last", "drop"}
    assert (tmp_path / "results.md").is_file()
    again = fscil.reproduce(out=tmp_path / "two", seeds=1, only=["ncm", "ours"], processes=2)
    figures = {(row.name, row.metric): row.ours for row in results.rows if row.metric != "seconds"}
    assert {(row.name, row.metric): row.ours for row in again.rows if row.metric != "seconds"} == figures
    with pytest.raises(ValueError, match="only is 'sgd'"):
        fscil.reproduce(out=tmp_path, only=["sgd"])


@pytest.mark.parametrize("name", ["conv4", "resnet18"])
def test_from_scratch(name: str, stream: FewShotStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fscil_scratch, "METHODS", ("ncm", "ours"))
    monkeypatch.setattr(fscil_scratch, "BATCH", 32)
    results = fscil_scratch.reproduce(out=tmp_path, only=[name], epochs=1)
    assert {row.name for row in results.rows} == {f"{name}, 1 epochs: {method}" for method in ("ncm", "ours")}
    again = fscil_scratch.reproduce(out=tmp_path, only=[name], epochs=1)
    assert again.rows == results.rows
