import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from memreplay.detection.data import DetectionSet, ImagesInMemory, Picture
from memreplay.detection.scenes import digit_scenes
from memreplay.detection.shots import Shots, read_published


@pytest.fixture(scope="module")
def data() -> DetectionSet:
    return digit_scenes(30, [4, 7], size=48)


@pytest.mark.parametrize("shot", [1, 3, 10])
def test_exactly_k_boxes_of_every_class(data: DetectionSet, shot: int) -> None:
    shots = Shots.draw(data, ["7", "4"], shot)
    assert shots.of(data).counts() == {"7": shot, "4": shot}
    assert shots.of(data).classes == ("7", "4")
    assert shots.of(data, ["4", "7"]).counts() == {"4": shot, "7": shot}


def test_every_box_is_equally_likely_and_images_come_before_second_boxes(data: DetectionSet) -> None:
    images = {p.name for p in data.pictures if (p.labels == 0).any()}
    all_images = Shots.draw(data, ["4"], len(images))
    assert {name for name, _ in all_images.boxes["4"]} == images
    first = [Shots.draw(data, ["4"], 1, seed).boxes["4"][0][0] for seed in range(400)]
    counts = torch.tensor([first.count(name) for name in images], dtype=torch.float64)
    expected = 400 / len(images)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < len(images) + 4 * (2 * len(images)) ** 0.5


def test_the_seed_decides_and_other_classes_do_not(data: DetectionSet) -> None:
    both = Shots.draw(data, ["4", "7"], 3, seed=1)
    assert Shots.draw(data, ["4"], 3, seed=1).boxes["4"] == both.boxes["4"]
    assert Shots.draw(data, ["4", "7"], 3, seed=2).digest != both.digest
    code = (
        "from memreplay.detection.scenes import digit_scenes; from memreplay.detection.shots import Shots;"
        "print(Shots.draw(digit_scenes(30, [4, 7], size=48), ['4', '7'], 3, seed=1).digest)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == both.digest


def test_saved_and_loaded(data: DetectionSet, tmp_path: Path) -> None:
    shots = Shots.draw(data, ["4", "7"], 2)
    shots.save(tmp_path / "there" / "shots.json")
    assert Shots.load(tmp_path / "there" / "shots.json") == shots


def test_a_file_that_was_changed_is_refused(data: DetectionSet, tmp_path: Path) -> None:
    path = tmp_path / "shots.json"
    Shots.draw(data, ["4", "7"], 2).save(path)
    found = json.loads(path.read_text())
    for change, expected in (
        (
            {"boxes": {**found["boxes"], "4": found["boxes"]["4"][:1]}},
            "class '4' has 1 different boxes; expected shot = 2",
        ),
        ({"boxes": {**found["boxes"], "4": [found["boxes"]["4"][0]] * 2}}, "class '4' has 1 different boxes"),
        ({"boxes": {"4": found["boxes"]["4"]}}, "says its digest is"),
        ({"boxes": 3}, "holds no shots"),
    ):
        path.write_text(json.dumps({**found, **change}))
        with pytest.raises(ValueError, match=expected):
            Shots.load(path)


def test_too_few_boxes(data: DetectionSet) -> None:
    with pytest.raises(ValueError, match=r"class '4' has \d+ boxes; expected at least shot = 999"):
        Shots.draw(data, ["4"], 999)
    with pytest.raises(ValueError, match="shot is 0"):
        Shots.draw(data, ["4"], 0)
    with pytest.raises(ValueError, match="classes has '5'"):
        Shots.draw(data, ["5"], 1)


def test_shots_of_other_data_are_refused(data: DetectionSet) -> None:
    shots = Shots.draw(data, ["4"], 2)
    with pytest.raises(ValueError, match=r"is no '4' in .*; are the shots of other data\?"):
        shots.of(digit_scenes(3, [4, 7], size=48, seed=5))


def boxed(name: str, labels: list[int], hard: list[bool]) -> Picture:
    boxes = torch.tensor([[0.0, 0, i + 1, 1] for i in range(len(labels))])
    return Picture(name, (9, 9), boxes, torch.tensor(labels), torch.tensor(hard))


def test_published_lists(tmp_path: Path) -> None:
    pictures = [
        boxed("VOC2007/JPEGImages/000009.jpg", [0, 1, 0], [False] * 3),
        boxed("VOC2012/JPEGImages/2008_1.jpg", [1, 0], [False, True]),
        boxed("VOC2007/JPEGImages/000010.jpg", [1], [False]),
    ]
    data = DetectionSet(["bus", "cow"], pictures, ImagesInMemory({}))
    lists = {
        "box_3shot_bus_train.txt": "datasets/VOC2012/JPEGImages/2008_1.jpg\ndatasets/VOC2007/JPEGImages/000009.jpg\n",
        "box_3shot_cow_train.txt": "x/000009.jpg\nx/2008_1.jpg\nx/000010.jpg\n",
        "seed2/box_1shot_bus_train.txt": "x/000009.jpg\n",
        "box_5shot_cow_train.txt": "x/000009.jpg\n",
        "box_1shot_cow_train.txt": "x/000099.jpg\n",
    }
    with zipfile.ZipFile(tmp_path / "lists.zip", "w") as archive:
        for name, text in lists.items():
            (tmp_path / "lists" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "lists" / name).write_text(text)
            archive.writestr(f"vocsplit/{name}", text)
    for root in (tmp_path / "lists", tmp_path / "lists.zip"):
        shots = read_published(root, data, ["bus", "cow"], 3)
        assert set(shots.boxes["bus"]) == {(pictures[0].name, 0), (pictures[0].name, 2), (pictures[1].name, 1)}
        # a box that is marked as difficult is learned from if it was chosen
        assert shots.of(data).counts() == {"bus": 3, "cow": 3}
        assert len(read_published(root, data, ["bus"], 1, seed=2).boxes["bus"]) == 1
        with pytest.raises(ValueError, match="'cow' has 1 boxes on the listed images; expected shot = 5"):
            read_published(root, data, ["cow"], 5)
        with pytest.raises(ValueError, match=r"x/000099\.jpg is listed for 'cow'"):
            read_published(root, data, ["cow"], 1)
        with pytest.raises(FileNotFoundError):
            read_published(root, data, ["cow"], 7)
