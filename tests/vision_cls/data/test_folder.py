from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from memreplay.vision_cls import image_folder
from memreplay.vision_cls.data import ImageFolder


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
def test_folder_with_parts(tmp_path: Path, other: str, picture: Callable[..., None]) -> None:
    picture(tmp_path / "train" / "a" / "deeper" / "1.jpg")
    picture(tmp_path / "train" / "b" / "1.PNG", (0, 255, 0))
    picture(tmp_path / other / "a" / "1.png", (0, 0, 255))
    picture(tmp_path / other / "b" / "1.png")
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    assert image_folder(tmp_path, "train", size=4).labels.tolist() == [0, 1]
    test = image_folder(tmp_path, "test", size=4)
    assert test.images[:, :, 0, 0].tolist() == [[0, 0, 255], [255, 0, 0]]


def test_folder_says_what_is_wrong(folder: Path, tmp_path: Path, picture: Callable[..., None]) -> None:
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


def test_images_know_their_files(folder: Path) -> None:
    (folder / "cat" / "3.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match="left out"):
        parts = [image_folder(folder, split, size=4, on_corrupt="skip") for split in ("train", "test")]
    found = sorted(source for part in parts for source in part.sources)
    assert found == sorted(str(path) for path in folder.rglob("*.png") if path.parts[-2:] != ("cat", "3.png"))
    for part in parts:
        assert [Path(source).parent.name for source in part.sources] == part.names
        index = torch.tensor([2, 0])
        assert part.rows(index).sources == (part.sources[2], part.sources[0])


def test_both_parts_can_stay_on_disk(folder: Path, tmp_path: Path) -> None:
    data = ImageFolder(str(folder), size=4, cache=str(tmp_path / "cache"))
    train, test = data.load("train"), data.load("test")
    assert torch.equal(train.images, image_folder(folder, "train", size=4).images)
    assert torch.equal(test.images, image_folder(folder, "test", size=4).images)
    assert (tmp_path / "cache" / "train.pixels").stat().st_size == 16 * 3 * 4 * 4
