from pathlib import Path

import pytest
import torch

from memreplay.vision_cls import ByClass, ClassParts, Digits, ImageFolder, ImageSet


@pytest.fixture
def images() -> ImageSet:
    """Classes a, b, c, d with 1, 2, 3, 4 images, every pixel the number of the class."""
    labels = torch.arange(4).repeat_interleave(torch.arange(1, 5))
    return ImageSet(labels.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).float(), labels, ("a", "b", "c", "d"), "train")


def test_classes_are_numbered_anew_in_the_order_given(images: ImageSet) -> None:
    chosen = images.of_classes(["d", "b"])
    assert chosen.classes == ("d", "b")
    assert chosen.labels.tolist() == [1, 1, 0, 0, 0, 0]
    assert chosen.images[:, 0, 0, 0].tolist() == [1, 1, 3, 3, 3, 3]
    assert len(images.of_classes([])) == 0
    with pytest.raises(ValueError, match=r"names has \['x'\], 1 in all, of which there are no images"):
        images.of_classes(["a", "x"])
    with pytest.raises(ValueError, match="2 classes, 1 of them distinct"):
        images.of_classes(["a", "a"])


def test_every_class_is_in_one_part(images: ImageSet) -> None:
    parts = ClassParts.of(images, novel=["c"], validation=["a"])
    assert [part.classes for part in (parts.base, parts.validation, parts.novel)] == [("b", "d"), ("a",), ("c",)]
    assert [len(part) for part in (parts.base, parts.validation, parts.novel)] == [6, 1, 3]
    with pytest.raises(ValueError, match=r"novel has \['c'\], which validation has too"):
        ClassParts.of(images, novel=["c", "d"], validation=["c"])


def test_by_chance() -> None:
    parts = ByClass(Digits(), novel=0.3, validation=0.2).load()
    assert [len(part.classes) for part in (parts.base, parts.validation, parts.novel)] == [5, 2, 3]
    assert sum(len(part) for part in (parts.base, parts.validation, parts.novel)) == 1797
    assert not set(parts.base.classes) & {*parts.validation.classes, *parts.novel.classes}
    assert ByClass(Digits(), novel=0.3, seed=1).load().novel.classes != parts.novel.classes
    assert len(ByClass(Digits(), novel=1.0).load().base) == 0


def test_an_image_folder(folder: Path) -> None:
    parts = ByClass(ImageFolder(str(folder), size=4), novel=0.5).load()
    assert {*parts.base.classes, *parts.novel.classes} == {"cat", "dog"}
    assert (len(parts.base), len(parts.novel)) == (10, 10)


@pytest.mark.parametrize(
    ("novel", "validation", "message"),
    [(0.0, 0.0, "novel is 0.0"), (0.5, -0.1, "validation is -0.1"), (0.7, 0.4, "at most 1 together")],
)
def test_shares_are_checked(novel: float, validation: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ByClass(Digits(), novel=novel, validation=validation)
