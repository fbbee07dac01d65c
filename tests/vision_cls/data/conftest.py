"""What the tests of images share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


def _picture(
    path: Path, colour: tuple[int, int, int] = (255, 0, 0), mode: str = "RGB", size: tuple[int, int] = (12, 8)
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


@pytest.fixture
def picture() -> Callable[..., None]:
    """Writes an image file of one colour."""
    return _picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten images, each image of a colour of its own."""
    for i in range(10):
        _picture(tmp_path / "data" / "cat" / f"{i}.png", (200, i * 20, 0))
        _picture(tmp_path / "data" / "dog" / f"{i}.png", (0, i * 20, 200))
    return tmp_path / "data"
