from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from memreplay.vision_cls import image_folder


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
def test_every_mode_becomes_rgb(
    tmp_path: Path, mode: str, suffix: str, expected: tuple[int, ...] | None, picture: Callable[..., None]
) -> None:
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


def test_images_are_turned_upright_and_cropped_about_the_centre(tmp_path: Path, picture: Callable[..., None]) -> None:
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
