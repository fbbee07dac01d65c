from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from memreplay.vision_cls import HubData

datasets = pytest.importorskip("datasets")


def table(n: int, label: Any, first: int = 0) -> Any:
    """``n`` images of one colour each, classes taking turns."""
    pictures = [Image.new("RGB", (6, 6), (first + i, 0, 0)) for i in range(n)]
    columns = {"picture": pictures, "kind": [label(i) for i in range(n)]}
    return datasets.Dataset.from_dict(columns).cast_column("picture", datasets.Image())


@pytest.fixture
def saved(tmp_path: Path) -> str:
    """Two parts, saved by the library."""
    kinds = datasets.ClassLabel(names=["cat", "dog"])
    parts = {"train": table(6, lambda i: i % 2), "validation": table(4, lambda i: i % 2, 100)}
    parts = {name: part.cast_column("kind", kinds) for name, part in parts.items()}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    return str(tmp_path / "saved")


def test_parts_of_its_own(saved: str) -> None:
    data = HubData(saved, image="picture", label="kind", size=4)
    train, test = data.load("train"), data.load("test")
    assert train.classes == test.classes == ("cat", "dog")
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1] * 3, [0, 1] * 2)
    assert train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert test.images.shape == (4, 3, 4, 4)


def test_one_part_is_split_and_names_are_classes(tmp_path: Path) -> None:
    table(20, lambda i: "ab"[i % 2]).save_to_disk(str(tmp_path / "one"))
    data = HubData(str(tmp_path / "one"), image="picture", label="kind", size=4)
    train, test = data.load("train"), data.load("test")
    assert train.classes == ("a", "b")
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([8, 8], [2, 2])
    colours = [*train.images[:, 0, 0, 0].tolist(), *test.images[:, 0, 0, 0].tolist()]
    assert sorted(colours) == list(range(20))


def test_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            Image.new("L", (6, 6), 50).save(tmp_path / "images" / part / name / "1.png")
    data = HubData(str(tmp_path / "images"), size=4)
    assert data.load("test").classes == ("cat", "dog")
    assert data.load("train").images.unique().tolist() == [50]


def test_what_is_wrong_is_named(saved: str) -> None:
    with pytest.raises(ValueError, match=r"image is 'image'; .* has the columns picture, kind"):
        HubData(saved, label="kind").load("train")
    with pytest.raises(ValueError, match="label is 'label'"):
        HubData(saved, image="picture").load("train")
    with pytest.raises(ValueError, match=r"test is 'tset', which .* has not; it has train, validation"):
        HubData(saved, image="picture", label="kind", test="tset").load("test")
    with pytest.raises(ValueError, match="train is 'trian'"):
        HubData(saved, image="picture", label="kind", train="trian").load("train")
    with pytest.raises(ValueError, match="path is 'nobody/has-this', which cannot be loaded"):
        HubData("nobody/has-this").load("train")
