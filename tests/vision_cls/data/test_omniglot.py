import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from memreplay.core.protocols import check_shots
from memreplay.vision_cls import ImageSet, Omniglot, omniglot, omniglot_runs, rotated
from memreplay.vision_cls.data.omniglot import RUNS


def drawing(path: Path, ink: int) -> None:
    """White but for the ``ink`` first columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("1", (10, 10), 1)
    image.paste(0, (0, 0, ink, 10))
    image.save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two background alphabets of 2 and 1 characters, two drawings each; one small set zipped, with the first."""
    for part, characters in {
        "images_background": ["Greek/character01", "Greek/character02", "Latin/character01"],
        "images_background_small1": ["Greek/character02"],
    }.items():
        for number, character in enumerate(characters):
            for drawer in (1, 2):
                drawing(tmp_path / part / character / f"{number:04d}_{drawer:02d}.png", 2 * number + drawer)
    small = tmp_path / "images_background_small1"
    shutil.make_archive(str(small), "zip", tmp_path, small.name)
    shutil.rmtree(small)
    return tmp_path


def test_ink_is_bright_and_classes_are_named(root: Path) -> None:
    images = omniglot("background", root=root, size=10)
    assert images.classes == ("Greek/character01", "Greek/character02", "Latin/character01")
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.images.unique().tolist() == [0, 255]
    assert images.images[:, 0, 0].div(255).sum(1).tolist() == [1, 2, 3, 4, 5, 6]
    assert omniglot("background_small1", root=root).images.shape == (2, 1, 28, 28)
    assert omniglot(["background", "background_small1"], root=root).classes == images.classes


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no images_evaluation and no images_evaluation\.zip"):
        omniglot(root=root)
    with pytest.raises(ValueError, match="parts is 'foreground'"):
        omniglot("foreground", root=root)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"novel is \['Klingon'\], of which background have no images"):
        Omniglot(["background"], str(root), novel=["Latin", "Klingon"], validation=[]).load()


def test_parts_by_alphabet_and_by_character(root: Path) -> None:
    data = Omniglot(["background"], str(root), novel=["Latin"], validation=["Greek/character02"], rotations=True)
    parts = data.load()
    assert parts.base.classes == tuple(f"Greek/character01/rot{turn:03d}" for turn in (0, 90, 180, 270))
    assert [len(part) for part in (parts.base, parts.validation, parts.novel)] == [8, 8, 8]


def test_rotated() -> None:
    image = torch.arange(4.0).view(1, 1, 2, 2) / 3
    turned = rotated(ImageSet(image, torch.tensor([0]), ("a",), "train"))
    assert turned.labels.tolist() == [0, 1, 2, 3]
    assert (turned.images * 3).round().flatten(1).tolist() == [[0, 1, 2, 3], [1, 3, 0, 2], [3, 2, 1, 0], [2, 0, 3, 1]]


def test_runs(tmp_path: Path) -> None:
    for run in (f"run{number + 1:02d}" for number in range(RUNS)):
        for i in range(3):
            drawing(tmp_path / "all_runs" / run / "training" / f"class{i + 1:02d}.png", 2 * i + 1)
            drawing(tmp_path / "all_runs" / run / "test" / f"item{i + 1:02d}.png", 2 * i + 2)
        pairs = [f"{run}/test/item{i + 1:02d}.png {run}/training/class{(i + 1) % 3 + 1:02d}.png\n" for i in range(3)]
        (tmp_path / "all_runs" / run / "class_labels.txt").write_text("".join(pairs))
    images, episodes = omniglot_runs(root=tmp_path, size=10)
    assert (len(images), len(images.classes), len(episodes)) == (120, 60, 20)
    last = episodes[-1]
    assert last.query_labels.tolist() == [1, 2, 0]
    assert images.images[last.support, 0, 0].div(255).sum(1).tolist() == [1, 3, 5]
    assert images.images[last.query, 0, 0].div(255).sum(1).tolist() == [2, 4, 6]
    assert torch.equal(images.labels[last.query], last.classes[last.query_labels])
    check_shots(images.labels, last.support, last.classes.tolist(), 1)
    (tmp_path / "all_runs" / "run03" / "class_labels.txt").write_text(
        "run03/test/item01.png run03/training/class02.png\n"
    )
    with pytest.raises(ValueError, match=r"run03/class_labels\.txt .* does not name every training image once"):
        omniglot_runs(root=tmp_path)
