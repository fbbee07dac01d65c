import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from memreplay.vision_cls import ImageSet, digits, image_folder, stratified_split, torchvision_dataset


def picture(
    path: Path, colour: tuple[int, int, int] = (255, 0, 0), mode: str = "RGB", size: tuple[int, int] = (12, 8)
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten images, each image of a colour of its own."""
    for i in range(10):
        picture(tmp_path / "data" / "cat" / f"{i}.png", (200, i * 20, 0))
        picture(tmp_path / "data" / "dog" / f"{i}.png", (0, i * 20, 200))
    return tmp_path / "data"


def test_digits() -> None:
    train, test = digits("train"), digits("test")
    assert len(train) + len(test) == 1797
    assert train.images.shape[1:] == (1, 8, 8)
    assert train.images.dtype == torch.float32
    assert (train.images.min(), train.images.max()) == (0, 1)
    assert train.labels.dtype == torch.int64
    shares = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert shares.sub(0.3).abs().max() < 0.01
    assert torch.equal(digits("test").images, test.images)

    from sklearn.datasets import load_digits

    source = load_digits()
    ours = torch.cat([train.images, test.images]).flatten(1).mul(16).numpy()
    assert np.array_equal(np.sort(ours @ np.arange(64)), np.sort(source.data @ np.arange(64)))


def test_batch_rows_and_classes() -> None:
    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)
    data = ImageSet(images, torch.tensor([0, 2, 1, 2]), ("a", "b", "c"), "train")
    batch = data.batch(torch.tensor([3, 0]))
    torch.testing.assert_close(batch["input"], images[[3, 0]].double().div(255).float())
    assert batch["label"].tolist() == [2, 0]
    assert data.of([2, 0]).labels.tolist() == [0, 2, 2]
    assert torch.equal(data.of([2]).images, images[[1, 3]])
    assert len(data.of([])) == 0


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 4, 4), torch.zeros(2, dtype=torch.int64), r"images has shape \(2, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4).double(), torch.zeros(2, dtype=torch.int64), "torch.float64"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(3, dtype=torch.int64), r"labels has shape \(3,\)"),
        (torch.zeros(2, 1, 4, 4), torch.tensor([0, 5]), "labels reach from 0 to 5; expected positions among 2"),
    ],
)
def test_image_set_is_checked(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageSet(images, labels, ("a", "b"), "train")


def test_stratified_split() -> None:
    labels = torch.tensor([0] * 10 + [1] * 3 + [2] * 2 + [3])
    parts = stratified_split(labels, test_fraction=0.2, generator=torch.Generator().manual_seed(1))
    assert sorted([*parts["train"].tolist(), *parts["test"].tolist()]) == list(range(16))
    assert labels[parts["test"]].tolist() == [0, 0, 1, 2]
    other = stratified_split(labels, test_fraction=0.2, generator=torch.Generator().manual_seed(2))
    assert not torch.equal(other["test"], parts["test"])
    with pytest.raises(ValueError, match=r"test_fraction is 1\.5"):
        stratified_split(labels, test_fraction=1.5, generator=torch.Generator())


def test_folder_is_split_by_chance(folder: Path) -> None:
    train, test = (image_folder(folder, split, size=4) for split in ("train", "test"))
    assert train.classes == ("cat", "dog")
    assert train.labels.bincount().tolist() == [8, 8]
    assert test.labels.bincount().tolist() == [2, 2]
    assert train.images.shape == (16, 3, 4, 4)
    colours = torch.cat([train.images, test.images])[:, :, 0, 0].tolist()
    assert sorted(map(tuple, colours)) == sorted(
        [(200, i * 20, 0) for i in range(10)] + [(0, i * 20, 200) for i in range(10)]
    )
    assert not torch.equal(image_folder(folder, "test", size=4, seed=1).images, test.images)


@pytest.mark.parametrize("other", ["test", "val"])
def test_folder_with_parts(tmp_path: Path, other: str) -> None:
    picture(tmp_path / "train" / "a" / "deeper" / "1.jpg")
    picture(tmp_path / "train" / "b" / "1.PNG", (0, 255, 0))
    picture(tmp_path / other / "a" / "1.png", (0, 0, 255))
    picture(tmp_path / other / "b" / "1.png")
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    assert image_folder(tmp_path, "train", size=4).labels.tolist() == [0, 1]
    test = image_folder(tmp_path, "test", size=4)
    assert test.images[:, :, 0, 0].tolist() == [[0, 0, 255], [255, 0, 0]]


@pytest.mark.parametrize(
    ("mode", "suffix", "expected"),
    [
        ("L", "png", (76, 76, 76)),
        ("P", "png", (255, 0, 0)),
        ("RGBA", "png", (255, 0, 0)),
        ("CMYK", "tiff", (255, 0, 0)),
        ("1", "png", None),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str, expected: tuple[int, ...] | None) -> None:
    picture(tmp_path / "train" / "a" / f"1.{suffix}", mode=mode)
    picture(tmp_path / "test" / "a" / "1.png")
    images = image_folder(tmp_path, "train", size=4).images
    assert images.shape == (1, 3, 4, 4)
    if expected:
        assert (images[0, :, 1, 1].int() - torch.tensor(expected)).abs().max() <= 1


def test_sixteen_bit_grey(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for i, value in enumerate((0, 256 * 100, 65535)):
        Image.fromarray(np.full((6, 6), value, dtype=np.uint16)).save(tmp_path / "a" / f"{i}.png")
    images = image_folder(tmp_path, "train", size=4, test_fraction=0.1).images
    assert set(images.unique().tolist()) < {0, 100, 255}


def test_images_are_turned_upright_and_cropped_about_the_centre(tmp_path: Path) -> None:
    wide = Image.new("RGB", (30, 10), (255, 0, 0))
    wide.paste((0, 255, 0), (10, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    (tmp_path / "train" / "a").mkdir(parents=True)
    wide.save(tmp_path / "train" / "a" / "1.png")
    half = Image.new("RGB", (10, 10), (255, 255, 255))
    half.paste((0, 0, 0), (0, 0, 5, 10))
    half.save(tmp_path / "train" / "a" / "2.png", exif=exif)
    picture(tmp_path / "test" / "a" / "1.png")
    centre, turned = image_folder(tmp_path, "train", size=10).images
    assert centre[:, 5, 2:8].T.unique(dim=0).tolist() == [[0, 255, 0]]
    assert turned[:, 1, :].unique().tolist() == [0]
    assert turned[:, 8, :].unique().tolist() == [255]


def test_corrupt_image(folder: Path) -> None:
    good = (folder / "cat" / "3.png").read_bytes()
    for content in (b"", b"no image at all", good[: len(good) // 2]):
        (folder / "cat" / "3.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"cat/3\.png is no image that can be read"):
            [image_folder(folder, split, size=4) for split in ("train", "test")]
    with pytest.warns(UserWarning, match=r"left out: .*cat/3\.png"):
        parts = [image_folder(folder, split, size=4, on_corrupt="skip") for split in ("train", "test")]
    assert sum(len(part) for part in parts) == 19
    assert sum(int((part.labels == 0).sum()) for part in parts) == 9


def test_pixels_on_disk(folder: Path, tmp_path: Path) -> None:
    cached = image_folder(folder, size=4, cache=tmp_path / "pixels")
    assert torch.equal(cached.images, image_folder(folder, size=4).images)
    assert (tmp_path / "pixels").stat().st_size == 16 * 3 * 4 * 4


def test_folder_says_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="split is 'valid'"):
        image_folder(folder, "valid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_corrupt is 'ignore'"):
        image_folder(folder, on_corrupt="ignore")  # type: ignore[arg-type]
    (folder / "bird").mkdir()
    with pytest.raises(ValueError, match="class 'bird' has no images"):
        image_folder(folder)
    with pytest.raises(ValueError, match="has no folders; expected one per class"):
        image_folder(folder / "cat")
    picture(folder / "train" / "cat" / "1.png")
    with pytest.raises(ValueError, match="expected a folder 'test' or 'val'"):
        image_folder(folder)
    picture(folder / "test" / "dog" / "1.png")
    with pytest.raises(ValueError, match=r"differ in the classes \['cat', 'dog'\]"):
        image_folder(folder)


def test_a_class_that_lost_all_its_images(folder: Path) -> None:
    for path in (folder / "cat").iterdir():
        path.write_bytes(b"broken")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match=r"class 'cat' .* no image"):
        image_folder(folder, on_corrupt="skip")


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
