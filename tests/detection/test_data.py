import json
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from memreplay.detection.coco import Coco, as_coco
from memreplay.detection.data import DetectionSet, ImageFiles, flipped, image_batches
from memreplay.detection.voc import Voc


def annotations(**changes: object) -> dict[str, object]:
    box = {"id": 1, "image_id": 5, "category_id": 9, "bbox": [1, 2, 3, 4], "iscrowd": 0}
    return {
        "images": [
            {"id": 7, "file_name": "b.png", "height": 10, "width": 20},
            {"id": 5, "file_name": "a.png", "height": 10, "width": 20},
        ],
        "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "ant"}],
        "annotations": [{**box, **changes}],
    }


def written(folder: Path, **changes: object) -> Coco:
    (folder / "some.json").write_text(json.dumps(annotations(**changes)))
    for name in "ab":
        Image.new("L", (20, 10), ord(name)).save(folder / f"{name}.png")
    return Coco(folder / "some.json")


def test_coco(tmp_path: Path) -> None:
    data = written(tmp_path).load()
    assert data.classes == ("ant", "cat")
    assert [picture.name for picture in data.pictures] == ["a.png", "b.png"]
    assert data.pictures[0].boxes.tolist() == [[1, 2, 4, 6]]
    assert data.pictures[0].labels.tolist() == [1]
    assert data.counts() == {"ant": 0, "cat": 1}
    assert data.image(1).shape == (3, 10, 20)
    assert (data.image(1) == ord("b")).all()


def test_coco_and_back(tmp_path: Path, scenes: DetectionSet) -> None:
    (tmp_path / "scenes.json").write_text(json.dumps(as_coco(scenes)))
    again = Coco(tmp_path / "scenes.json").load()
    assert again.digest() == scenes.digest()


def test_images_in_a_zip(tmp_path: Path) -> None:
    written(tmp_path)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "images/a.png")
    files = ImageFiles(tmp_path / "all.zip")
    assert torch.equal(files.read("a.png"), ImageFiles(tmp_path).read("a.png"))
    with pytest.raises(FileNotFoundError, match=r"no b\.png"):
        files.read("b.png")


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([-5, 2, 8, 4], [[0, 2, 3, 6]]),
        ([15, 8, 30, 30], [[15, 8, 20, 10]]),
        ([25, 2, 3, 4], []),
        ([1, 2, 0, 4], []),
        ([1, 2, 3, -4], []),
    ],
)
def test_boxes_are_cut_or_left_out_with_a_warning(tmp_path: Path, box: list[float], expected: list[object]) -> None:
    coco = written(tmp_path, bbox=box)
    if expected:
        data = coco.load()
    else:
        with pytest.warns(UserWarning, match=r"1 boxes have no area within their image .* on a\.png \(20 x 10\)"):
            data = coco.load()
    assert data.pictures[0].boxes.tolist() == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"category_id": 3}, r"annotation 1 .* has category_id 3; expected one of \[2, 9\]"),
        ({"image_id": 3}, "is on image 3, which is not there"),
        ({"bbox": [1, 2, 3]}, "expected four finite numbers"),
        ({"bbox": [1, 2, float("nan"), 3]}, "expected four finite numbers"),
    ],
)
def test_bad_annotations(tmp_path: Path, change: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        written(tmp_path, **change).load()


def test_what_is_not_coco(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(ValueError, match="not in COCO's format"):
        Coco(tmp_path / "other.json").load()
    with pytest.raises(FileNotFoundError, match=r"absent\.zip"):
        Coco(written(tmp_path).annotations, tmp_path / "absent.zip").load()


def test_an_image_of_another_size(tmp_path: Path) -> None:
    data = written(tmp_path).load()
    Image.new("RGB", (20, 9)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="20 x 9 pixels; its annotations say 20 x 10"):
        data.image(0)
    (tmp_path / "a.png").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="no image that can be read"):
        data.image(0)


VOC = """<annotation><size><width>20</width><height>10</height><depth>3</depth></size>
<object><name>{name}</name><difficult>{hard}</difficult>
<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>4</xmax><ymax>6</ymax></bndbox></object></annotation>"""


def voc(root: Path, name: str = "bus", hard: int = 0) -> Path:
    folder = root / "VOC2007"
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "Annotations" / "000001.xml").write_text(VOC.format(name=name, hard=hard))
    (folder / "ImageSets" / "Main" / "test.txt").write_text("000001\n")
    return root


def test_voc(tmp_path: Path) -> None:
    data = Voc(voc(tmp_path, hard=1), ["2007/test"], ["cat", "bus"]).load()
    assert data.pictures[0].name == "VOC2007/JPEGImages/000001.jpg"
    assert data.pictures[0].boxes.tolist() == [[1, 2, 4, 6]]
    assert data.pictures[0].labels.tolist() == [1]
    assert data.pictures[0].hard.tolist() == [True]
    assert data.counts() == {"cat": 0, "bus": 0}


def test_bad_voc(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="object of class 'yeti'"):
        Voc(voc(tmp_path, name="yeti"), ["2007/test"]).load()
    (tmp_path / "VOC2007" / "Annotations" / "000001.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match="not in VOC's format"):
        Voc(tmp_path, ["2007/test"]).load()


def test_some_classes(scenes: DetectionSet) -> None:
    part = scenes.of(["2", "0"])
    assert part.classes == ("2", "0")
    assert part.counts() == {"2": scenes.counts()["2"], "0": scenes.counts()["0"]}
    assert len(scenes.of(["2"], empty=True)) == len(scenes)
    assert all((picture.labels == 0).all() for picture in scenes.of(["2"]).pictures)
    with pytest.raises(ValueError, match="classes has '9'"):
        scenes.of(["9"])


def test_split_is_by_the_seed(scenes: DetectionSet) -> None:
    one, other = scenes.split(3)
    assert {p.name for p in one.pictures} | {p.name for p in other.pictures} == {p.name for p in scenes.pictures}
    assert len(one) == 3
    assert [p.name for p in scenes.split(3)[0].pictures] == [p.name for p in one.pictures]
    assert [p.name for p in scenes.split(3, seed=1)[0].pictures] != [p.name for p in one.pictures]


def test_flips_move_boxes_with_their_pixels(scenes: DetectionSet) -> None:
    image, boxes = scenes.image(0), scenes.pictures[0].boxes
    mirrored, moved = flipped(image, boxes)
    for (x1, y1, x2, y2), (a1, b1, a2, b2) in zip(boxes.int().tolist(), moved.int().tolist(), strict=True):
        assert torch.equal(mirrored[:, b1:b2, a1:a2], image[:, y1:y2, x1:x2].flip(2))


def test_batches_depend_on_seed_and_epoch_alone(scenes: DetectionSet) -> None:
    def order(epoch: int, **options: object) -> list[tuple[int, int]]:
        loader = image_batches(scenes, 3, **options)  # type: ignore[arg-type]
        for part in (loader.sampler, loader.dataset):
            part.set_epoch(epoch)  # type: ignore[attr-defined]
        return [(int(i), int(x.sum())) for b in loader for i, x in zip(b["id"], b["boxes"], strict=True)]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != order(0, seed=1)
    assert [i for i, _ in order(0, shuffle=False)] == list(range(8))
    assert len(order(0)) == 6  # the last batch would be smaller
    with pytest.raises(ValueError, match="size is 0"):
        image_batches(scenes, 0)
