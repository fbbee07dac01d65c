import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from memreplay.vision_cls import torchvision_dataset


def idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    folder = tmp_path / "mnist"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for stem, n in (("train", 7), ("t10k", 3)):
        idx(folder / f"{stem}-images-idx3-ubyte.gz", draw.integers(0, 256, (n, 28, 28)))
        idx(folder / f"{stem}-labels-idx1-ubyte.gz", draw.integers(0, 10, n))
    return tmp_path


def test_mnist_from_the_original_files(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMREPLAY_DATA", str(mnist))
    before = sorted(path for path in mnist.rglob("*"))
    train, test = torchvision_dataset("MNIST"), torchvision_dataset("MNIST", "test")
    draw = np.random.default_rng(0)
    assert np.array_equal(train.images.squeeze(1).numpy(), draw.integers(0, 256, (7, 28, 28)))
    assert np.array_equal(train.labels.numpy(), draw.integers(0, 10, 7))
    assert test.images.shape == (3, 1, 28, 28)
    assert torchvision_dataset("MNIST", root=mnist, size=32).images.shape == (7, 1, 32, 32)
    assert sorted(path for path in mnist.rglob("*")) == before


def test_mnist_refuses_another_format(mnist: Path) -> None:
    (mnist / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(ValueError, match="expected an IDX file"):
        torchvision_dataset("MNIST", root=mnist)


def test_torchvision_layout(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, n in (("train", 4), ("t10k", 2)):
        for name, values in (("images-idx3", np.full((n, 28, 28), 9)), ("labels-idx1", np.arange(n))):
            idx(raw / f"{stem}-{name}-ubyte.gz", values)
            (raw / f"{stem}-{name}-ubyte").write_bytes(gzip.decompress((raw / f"{stem}-{name}-ubyte.gz").read_bytes()))
    data = torchvision_dataset("FashionMNIST", "test", root=tmp_path, download=False, size=14)
    assert data.images.shape == (2, 1, 14, 14)
    assert set(data.images.flatten().tolist()) == {9}
    assert data.labels.tolist() == [0, 1]
    assert data.classes[0] == "T-shirt/top"


@pytest.mark.parametrize(
    ("name", "message"),
    [("MNISt", "expected a data set of torchvision.datasets"), ("EuroSAT", "no train and test part")],
)
def test_torchvision_says_what_is_wrong(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torchvision_dataset(name, root=tmp_path, download=False)
