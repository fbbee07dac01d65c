import gzip
import struct
from pathlib import Path

import pytest
import torch

from memreplay.vision_cls.recipes import split_mnist
from memreplay.vision_cls.recipes.split_mnist import TABLE, Setting, reproduce


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
    published = {(setting.method, setting.buffer): setting.published for setting in TABLE}
    assert [published["er", n] for n in (200, 500, 5120)] == [80.43, 86.12, 93.40]
    assert [published["der", n] for n in (200, 500, 5120)] == [84.55, 90.54, 94.90]
    assert [published["der++", n] for n in (200, 500, 5120)] == [85.61, 91.00, 95.30]


@pytest.mark.parametrize("method", ["sgd", "er", "der", "der++"])
def test_every_method_runs(method: str, tiny_mnist: Path) -> None:
    setting = Setting(method, 0 if method == "sgd" else 20, 0.0, 0.1, 4, 0.5, 0.5)
    outcome = split_mnist.run(setting, 0, tiny_mnist)
    assert 0 <= outcome["accuracy"] <= 100
    rows = min(20, 40)
    assert (outcome["memory_bytes"] >= rows * 784 * 4) == (method != "sgd")


def test_finished_runs_are_kept(tiny_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = reproduce(seeds=2, data=tiny_mnist, out=tmp_path / "out", only=["er-200"])
    assert [(row.name, row.seeds, row.published) for row in results.rows] == [("er-200", 2, 80.43)]
    setting = next(setting for setting in TABLE if setting.name == "er-200")
    monkeypatch.setattr(split_mnist, "run", lambda *_: pytest.fail("ran again"))
    assert split_mnist._kept(setting, 0, tiny_mnist, tmp_path / "out" / "runs")["accuracy"] >= 0


def test_an_unknown_cell_is_named() -> None:
    with pytest.raises(ValueError, match=r"only is 'err'; expected one of sgd, er-200"):
        reproduce(out=Path("nowhere"), only=["err"])
