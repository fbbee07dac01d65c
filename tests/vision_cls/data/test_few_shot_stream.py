import csv
import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from memreplay.vision_cls.data import listed_sessions, mini_imagenet_stream


def written(folder: Path, *sessions: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, lines in enumerate(sessions, 1):
        (folder / f"session_{number}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_lists_of_rows(tmp_path: Path) -> None:
    folder = written(tmp_path / "cifar100", ["4", "0"], ["2"], ["5"])
    sessions = listed_sessions(folder, [8, 8, 3, 3, 1, 9], shot=1)
    assert [session.train.tolist() for session in sessions] == [[4, 0], [2], [5]]
    assert sessions.class_order.tolist() == [1, 8, 3, 9]
    archive = tmp_path / "lists.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, f"index_list/cifar100/{path.name}")
    again = listed_sessions(archive / "index_list" / "cifar100", [8, 8, 3, 3, 1, 9], shot=1)
    assert again.digest == sessions.digest


def test_lists_of_files_whatever_their_root_and_ending(tmp_path: Path) -> None:
    folder = written(tmp_path, ["MINI-ImageNet/train/n01/a.jpg", "MINI-ImageNet/train/n02/a.jpg"], ["x/n03/b.c.jpg"])
    files = ["images/n03/b.c.webp", "images/n01/a.webp", "images/n02/a.webp"]
    sessions = listed_sessions(folder, [2, 0, 1], files, shot=1)
    assert [session.train.tolist() for session in sessions] == [[1, 2], [0]]
    with pytest.raises(ValueError, match="expected files"):
        listed_sessions(folder, [2, 0, 1])
    with pytest.raises(ValueError, match=r"lists x/n03/b\.c\.jpg and 0 more"):
        listed_sessions(folder, [0, 1], files[1:])


def test_lists_are_audited(tmp_path: Path) -> None:
    folder = written(tmp_path, ["0"], ["1", "2"])
    with pytest.raises(ValueError, match="class 1 has 2 rows; expected shot = 1"):
        listed_sessions(folder, [0, 1, 1], shot=1)
    with pytest.raises(ValueError, match=r"no session_1\.txt"):
        listed_sessions(tmp_path / "nothing", [0])


def test_mini_imagenet_stream(tmp_path: Path) -> None:
    """A miniature of the data: two base classes, two sessions of one, colours that tell the files apart."""
    folder = tmp_path / "mini_imagenet_fscil"
    folder.mkdir()
    lines, expected = [], {}
    session = {"n9": 1, "n5": 1, "n7": 2, "n1": 3}
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for wnid, first in session.items():
            for number in range(8):
                split = "test" if number == 7 else "train"
                shown = split == "test" or first == 1 or number < 5
                file = f"{wnid}/{number}.png"
                lines.append((file, wnid, split, (first if shown else 0) if split == "train" else 0, "a.zip"))
                if not shown:
                    lines[-1] = (*lines[-1][:4], "absent.zip")
                    continue
                colour = len(expected) * 5
                expected[file] = colour
                content = io.BytesIO()
                Image.new("RGB", (84, 84), (colour, 0, 255)).save(content, "PNG")
                archive.writestr(file, content.getvalue())
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "wnid", "split", "fscil_train_session", "zip"))
        writer.writerows(lines)
    stream = mini_imagenet_stream(tmp_path)
    assert stream.train.classes == ("n9", "n5", "n7", "n1")
    assert [len(part.train) for part in stream.sessions] == [14, 5, 5]
    assert [part.classes.tolist() for part in stream.sessions] == [[0, 1], [2], [3]]
    assert stream.test.labels.tolist() == [0, 1, 2, 3]
    colours = stream.train.images[:, :, 0, 0]
    assert colours[:, 0].tolist() == [colour for file, colour in expected.items() if not file.endswith("7.png")]
    assert torch.equal(colours[:, 2], torch.full((24,), 255, dtype=torch.uint8))
    with pytest.raises(FileNotFoundError, match=r"index\.csv"):
        mini_imagenet_stream(tmp_path / "elsewhere")
