"""FewShotStream: images whose classes arrive in sessions, with the shots that were published."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...core.protocols.labels import Integers
from ...core.protocols.sessions import Sessions
from .archive import Archive, root_of
from .image_set import ImageSet, Split


@dataclass(frozen=True, eq=False)
class FewShotStream:
    """A stream of sessions and the images that it is over.

    Attributes:
        train: images to learn from; rows that no session has are never shown.
        test: images to be judged on, with the same classes.
        sessions: over the rows of ``train``.
    """

    train: ImageSet
    test: ImageSet
    sessions: Sessions


def listed_sessions(
    folder: str | Path, labels: Integers, files: Sequence[str] | None = None, shot: int | None = 5
) -> Sessions:
    """Sessions of the published index lists, as they come with CEC (Zhang et al., Few-Shot Incremental Learning with
    Continually Evolved Classifiers, CVPR 2021): ``session_1.txt`` for the base classes, ``session_2.txt`` ... for the
    shots of later ones. A line is either the number of a row, for CIFAR-100 in torchvision's order; or the path of a
    file, for mini-ImageNet and CUB, of which the last two parts count (folder of the class, name of the file).

    Args:
        folder: of the lists, such as ``index_list/cifar100``; or a zip file of ``index_list`` and a folder in it, such
            as ``index_lists.zip/index_list/cifar100``.
        labels: the class of every training image, (N,).
        files: their paths, where the lists name files; endings such as ``.jpg`` do not count.
        shot: audit that later sessions have exactly so many images of each class; None: no audit.

    Raises:
        ValueError: no lists, a file that is not among ``files``, or what `Sessions.given` refuses.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "session_1.txt").write_text("0\\n1\\n")
    ...     _ = Path(folder, "session_2.txt").write_text("3\\n")
    ...     listed_sessions(folder, [7, 7, 4, 4], shot=1)[1].classes
    tensor([4])
    """
    lists = _lists(Path(folder))
    if all(line.isdecimal() for lines in lists for line in lines):
        indices = [[int(line) for line in lines] for lines in lists]
    else:
        if files is None:
            raise ValueError(f"{folder} lists files such as {lists[0][0]}; expected files, the paths of the images")
        place = {_key(file): row for row, file in enumerate(files)}
        if missing := [line for lines in lists for line in lines if _key(line) not in place]:
            raise ValueError(f"{folder} lists {missing[0]} and {len(missing) - 1} more that are not among the files")
        indices = [[place[_key(line)] for line in lines] for lines in lists]
    return Sessions.given(labels, indices, shot)


def mini_imagenet_stream(root: str | Path | None = None) -> FewShotStream:
    """mini-ImageNet for few-shot class-incremental learning: 60 base classes with 500 images each, then eight sessions
    of five classes with the published five shots, and 100 test images of every class, 84x84.

    ``root/mini_imagenet_fscil`` holds zip files of images and ``index.csv`` with the columns ``file``, ``wnid``,
    ``split`` (train or test), ``fscil_train_session`` (1: base, 2 to 9: shots, 0: neither) and ``zip``. Zip files that
    are not there may only have training images that no session shows.

    Args:
        root: by default ``$MEMREPLAY_DATA``.

    Raises:
        FileNotFoundError: no such folder, or a zip file or an image that is needed is not there.
    """
    folder = root_of(root) / "mini_imagenet_fscil"
    if not (folder / "index.csv").is_file():
        raise FileNotFoundError(f"there is no {folder / 'index.csv'}; expected the folder mini_imagenet_fscil in root")
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if _is_shown(line)]
    archives = {name: Archive(folder / name) for name in sorted({line["zip"] for line in lines})}
    classes = list(dict.fromkeys(line["wnid"] for line in sorted(lines, key=_session)))

    def images(split: Split) -> tuple[ImageSet, list[int]]:
        chosen = [line for line in lines if line["split"] == split]
        pixels = torch.empty(len(chosen), 3, 84, 84, dtype=torch.uint8)
        for name, archive in archives.items():
            rows = [row for row, line in enumerate(chosen) if line["zip"] == name]
            if rows:
                pixels[rows] = archive.pixels([chosen[row]["file"] for row in rows], "RGB", 84)
        labels = torch.tensor([classes.index(line["wnid"]) for line in chosen])
        return ImageSet(pixels, labels, tuple(classes), split), [_session(line) for line in chosen]

    train, session_of = images("train")
    numbers = torch.tensor(session_of)
    last = int(numbers.max())
    indices = [(numbers == number).nonzero().squeeze(1) for number in range(1, last + 1)]
    return FewShotStream(train, images("test")[0], Sessions.given(train.labels, indices, shot=5))


def _session(line: dict[str, str]) -> int:
    """Of a training image; test images come after all."""
    return int(line["fscil_train_session"]) if line["split"] == "train" else 1_000_000


def _is_shown(line: dict[str, str]) -> bool:
    return line["split"] == "test" or _session(line) > 0


def _lists(folder: Path) -> list[list[str]]:
    """Lines of ``session_1.txt``, ``session_2.txt`` ... in a folder, which may be in a zip file."""
    archive = next((path for path in (folder, *folder.parents) if path.suffix == ".zip" and path.is_file()), None)
    where: Path | zipfile.Path = folder
    if archive is not None:
        inside = folder.relative_to(archive).as_posix()
        where = zipfile.Path(archive, "" if inside == "." else f"{inside}/")
    lists: list[list[str]] = []
    while (path := where / f"session_{len(lists) + 1}.txt").is_file():
        lists.append(path.read_text(encoding="utf-8").split())
    if not lists:
        raise ValueError(f"folder is {str(folder)!r}, which has no session_1.txt; expected the lists of all sessions")
    return lists


def _key(file: str) -> str:
    """The folder and the name of a file, without its ending."""
    return "/".join(file.replace("\\", "/").rsplit("/", 2)[-2:]).rpartition(".")[0]
