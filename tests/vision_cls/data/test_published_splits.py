"""The splits of mini-ImageNet, CIFAR-FS, CUB and Omniglot, on data of a few pixels in the layouts of the real ones."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memreplay.vision_cls import CifarFS, Cub, MiniImageNet
from memreplay.vision_cls.data import cifar_fs, mini_imagenet

BASE = [f"n999{i:05d}" for i in range(64)]
WNIDS = [*BASE, *mini_imagenet.VALIDATION, *mini_imagenet.NOVEL]


def test_sizes() -> None:
    for module in (mini_imagenet, cifar_fs):
        assert (len(set(module.VALIDATION)), len(set(module.NOVEL))) == (16, 20)
        assert not set(module.VALIDATION) & set(module.NOVEL)


@pytest.mark.parametrize("layout", ["folders", "flat", "zips"])
def test_mini_imagenet(tmp_path: Path, picture: Callable[..., None], layout: str) -> None:
    folder = tmp_path / "mini_imagenet"
    for i, wnid in enumerate(WNIDS):
        path = f"images/{wnid}{i:08d}.jpg" if layout == "flat" else f"train/{wnid}/{i}.png"
        picture(folder / path, size=(4, 4))
    if layout == "zips":
        shutil.make_archive(str(folder / "one"), "zip", folder, "train")
        shutil.rmtree(folder / "train")
    parts = MiniImageNet(str(tmp_path), size=4).load()
    assert parts.base.classes == tuple(BASE)
    assert parts.novel.classes == tuple(mini_imagenet.NOVEL)
    assert [len(part) for part in (parts.base, parts.validation, parts.novel)] == [64, 16, 20]


def test_mini_imagenet_says_what_is_missing(tmp_path: Path, picture: Callable[..., None]) -> None:
    with pytest.raises(FileNotFoundError, match="no images with a WordNet id"):
        MiniImageNet(str(tmp_path)).load()
    picture(tmp_path / f"{mini_imagenet.NOVEL[0]}" / "1.png")
    with pytest.raises(ValueError, match="35 classes of the split in all"):
        MiniImageNet(str(tmp_path)).load()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        MiniImageNet(str(tmp_path / "nowhere")).load()


def test_cub(tmp_path: Path) -> None:
    for i in range(200):
        path = tmp_path / "CUB_200_2011" / "images" / f"{i + 1:03d}.Bird" / "1.jpg"
        path.parent.mkdir(parents=True)
        Image.new("L", (4, 4), i).save(path)
    parts = Cub(str(tmp_path), size=4).load()
    assert [len(part.classes) for part in (parts.base, parts.validation, parts.novel)] == [100, 50, 50]
    assert parts.base.classes[:2] == ("001.Bird", "003.Bird")
    assert (parts.validation.classes[1], parts.novel.classes[0]) == ("006.Bird", "004.Bird")
    assert parts.novel.images[0, 0, 0, 0] == 3
    shutil.rmtree(path.parent)
    with pytest.raises(ValueError, match="199 folders of images; expected 200"):
        Cub(str(tmp_path)).load()
    with pytest.raises(FileNotFoundError, match="CUB_200_2011"):
        Cub(str(tmp_path / "nowhere")).load()


def test_cifar_fs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100

    others = [f"class{i}" for i in range(64)]
    names = sorted([*others, *cifar_fs.VALIDATION, *cifar_fs.NOVEL])
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for file in ("train", "test"):
        entry = {"data": np.zeros((100, 3072), np.uint8), "fine_labels": list(range(100))}
        (folder / file).write_bytes(pickle.dumps(entry))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    monkeypatch.setattr(CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    parts = CifarFS(str(tmp_path), download=False, size=8).load()
    assert parts.base.classes == tuple(sorted(others))
    assert [len(part) for part in (parts.base, parts.validation, parts.novel)] == [128, 32, 40]
    assert parts.novel.images.shape == (40, 3, 8, 8)
