import gzip
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memreplay.vision_cls.backbones import MLP
from memreplay.vision_cls.recipes import split_mnist
from memreplay.vision_cls.recipes.split_mnist import reproduce
from memreplay.vision_cls.split_mnist_table import TABLE, Setting


@pytest.fixture
def tiny_mnist(tmp_path: Path) -> Path:
    """Forty training and twenty test images of noise, in MNIST's format."""
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for stem, n in (("train", 40), ("t10k", 20)):
        images = torch.randint(0, 256, (n, 28, 28), generator=generator, dtype=torch.uint8)
        labels = torch.arange(n, dtype=torch.uint8) % 10
        header = struct.pack(">BBBBIII", 0, 0, 8, 3, n, 28, 28)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.numpy().tobytes()))
        header = struct.pack(">BBBBI", 0, 0, 8, 1, n)
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.numpy().tobytes()))
    return tmp_path / "data"


def test_the_table_is_the_published_one() -> None:
    published = {setting.name: setting.published for setting in TABLE}
    assert len(published) == len(TABLE)
    assert [published[f"er-{n}"] for n in (200, 500, 5120)] == [80.43, 86.12, 93.40]
    assert [published[f"der-{n}"] for n in (200, 500, 5120)] == [84.55, 90.54, 94.90]
    assert [published[f"der++-{n}"] for n in (200, 500, 5120)] == [85.61, 91.00, 95.30]
    assert [published[f"a-gem-{n}"] for n in (200, 500, 5120)] == [45.72, 46.66, 54.24]
    assert [published[f"gss-{n}"] for n in (200, 500, 5120)] == [38.90, 49.76, 89.39]
    assert [published[f"icarl-{n}"] for n in (200, 500, 5120)] == [70.51, 70.10, 70.60]


METHODS = sorted({setting.method for setting in TABLE} - {"sgd", "joint"})


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_with_a_memory(method: str, tiny_mnist: Path) -> None:
    outcome = split_mnist.run(Setting(method, 20, None, 0.1, 4, 0.5, 0.5), 0, tiny_mnist)
    assert 0 <= outcome["accuracy"] <= 100
    assert outcome["memory_bytes"] >= 20 * 784 * 4


@pytest.mark.parametrize("method", ["er", "der++", "joint", "ours"])
def test_average_and_jitter_can_be_added(method: str, tiny_mnist: Path) -> None:
    setting = Setting(method, 0 if method == "joint" else 20, None, 0.1, 4, 0.5, average=0.9, jitter=(15, 0.1, 0.15))
    assert setting.row == ("ours+jitter" if method == "ours" else f"{method}+average+jitter")
    plain = replace(setting, average=0.0, jitter=None)
    with_both, without = (split_mnist.run(s, 0, tiny_mnist) for s in (setting, plain))
    network = 4 * sum(values.numel() for values in MLP(1, 28, 10).parameters())
    assert with_both["memory_bytes"] - without["memory_bytes"] == (0 if method == "ours" else network)


def test_validation_never_sees_the_test_images(tiny_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    found = split_mnist._data
    monkeypatch.setattr(split_mnist, "_data", lambda root, split: asked.append(split) or found(root, split))
    monkeypatch.setattr(split_mnist, "HELD_OUT", 10)
    split_mnist.validate(Setting("er", 20, None, 0.1, 4), 0, tiny_mnist)
    assert asked == ["train"]


def test_finished_runs_are_kept_by_setting_and_code(
    tiny_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = reproduce(seeds=2, data=tiny_mnist, out=tmp_path / "out", only=["er-200"])
    assert [(row.name, row.metric, row.seeds, row.published) for row in results.rows] == [
        ("er-200", "accuracy", 2, 80.43),
        ("er-200", "seconds", 2, None),
        ("er-200", "memory (kB)", 2, None),
    ]
    setting = next(setting for setting in TABLE if setting.name == "er-200")
    ran = []
    monkeypatch.setattr(split_mnist, "run", lambda *given: ran.append(given) or {"accuracy": 1.0})
    folder, code = tmp_path / "out" / "runs", results.config["code"]
    assert split_mnist._kept(setting, 0, tiny_mnist, folder, code)["accuracy"] >= 0
    assert not ran
    split_mnist._kept(setting, 0, tiny_mnist, folder, "another code")
    assert len(ran) == 1
    changed = replace(setting, jitter=(15, 0.1, 0.15))
    for _ in range(2):
        split_mnist._kept(changed, 1, tiny_mnist, folder, code)
    assert len(ran) == 2


def test_an_unknown_cell_is_named() -> None:
    with pytest.raises(ValueError, match=r"only is 'err'; expected one of sgd, joint, classic-200"):
        reproduce(out=Path("nowhere"), only=["err"])
