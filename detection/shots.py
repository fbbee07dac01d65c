"""Shots: exactly K boxes of every class, drawn once and kept in a file."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..core.protocols.seeding import generator_at
from ..core.reporting.results import replacing
from .data import DetectionSet

KIND = "memreplay shots"


@dataclass(frozen=True)
class Shots:
    """K boxes of each of some classes.

    Attributes:
        shot: K.
        boxes: by class, the boxes as (name of the image, position among its boxes).
        seed: that they were drawn by; None where they come from elsewhere.
    """

    shot: int
    boxes: Mapping[str, tuple[tuple[str, int], ...]]
    seed: int | None = None

    def __post_init__(self) -> None:
        """The audit."""
        for name, chosen in self.boxes.items():
            if len(set(chosen)) != self.shot or len(chosen) != self.shot:
                raise ValueError(f"class {name!r} has {len(set(chosen))} different boxes; expected shot = {self.shot}")

    @staticmethod
    def draw(data: DetectionSet, classes: Sequence[str], shot: int, seed: int = 0) -> Shots:
        """Draws ``shot`` boxes of each class, from as many images as there are. What is drawn of a class does not
        depend on the other classes.

        Raises:
            ValueError: a class has fewer boxes, or ``shot`` is below 1.
        """
        if shot < 1:
            raise ValueError(f"shot is {shot}; expected at least 1")
        chosen = {}
        for name in classes:
            if name not in data.classes:
                raise ValueError(f"classes has {name!r}; expected some of {', '.join(data.classes)}")
            generator = generator_at(seed, "shots", name)
            label = data.classes.index(name)
            rounds: list[tuple[int, int, tuple[str, int]]] = []
            for picture in data.pictures:
                own = ((picture.labels == label) & ~picture.hard).nonzero()[:, 0].tolist()
                key = int(torch.randint(2**62, (), generator=generator))
                for turn, at in enumerate(torch.randperm(len(own), generator=generator).tolist()):
                    rounds.append((turn, key, (picture.name, own[at])))
            if len(rounds) < shot:
                raise ValueError(f"class {name!r} has {len(rounds)} boxes; expected at least shot = {shot}")
            # one box of each image, in random order, before a second one of any
            chosen[name] = tuple(box for _, _, box in sorted(rounds)[:shot])
        return Shots(shot, chosen, seed)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in order."""
        return tuple(self.boxes)

    def of(self, data: DetectionSet, classes: Sequence[str] | None = None) -> DetectionSet:
        """The images with these boxes and no others: what is not among the K counts as background, as in the published
        protocols.

        Args:
            classes: those of the set, in this order; by default those of the shots.

        Raises:
            ValueError: an image or a box is not in ``data``, or is of another class.
        """
        wanted: dict[str, list[int]] = {}
        by_name = {picture.name: picture for picture in data.pictures}
        for name, chosen in self.boxes.items():
            for image, at in chosen:
                picture = by_name.get(image)
                if picture is None or at >= len(picture.labels) or data.classes[int(picture.labels[at])] != name:
                    raise ValueError(f"box {at} on {image} is no {name!r} in {data!r}; are the shots of other data?")
                wanted.setdefault(image, []).append(at)
        pictures = [by_name[image].only(torch.tensor(sorted(at))) for image, at in sorted(wanted.items())]
        # one that was chosen is learned from, however difficult it is
        pictures = [replace(picture, hard=torch.zeros_like(picture.hard)) for picture in pictures]
        return DetectionSet(data.classes, pictures, data.files).of(classes or self.classes, empty=True)

    @property
    def digest(self) -> str:
        """A hash of the boxes, to compare what several processes or runs have drawn."""
        return hashlib.sha256(json.dumps(self._entries()).encode()).hexdigest()[:16]

    def _entries(self) -> dict[str, list[list[str | int]]]:
        return {name: [list(box) for box in chosen] for name, chosen in self.boxes.items()}

    def save(self, path: str | Path) -> None:
        """Writes them to a JSON file, in one step."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"kind": KIND, "shot": self.shot, "seed": self.seed, "digest": self.digest, "boxes": self._entries()}
        with replacing(path) as draft:
            draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> Shots:
        """Reads what `save` wrote, after checking it.

        Raises:
            ValueError: it is something else, was changed, or has not exactly K boxes of each class.
        """
        try:
            found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            boxes = {name: tuple((str(i), int(at)) for i, at in chosen) for name, chosen in found["boxes"].items()}
            shots = Shots(int(found["shot"]), boxes, found["seed"])
            same = found["digest"] == shots.digest
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no shots: {error!r}") from error
        if not same:
            raise ValueError(
                f"{path} says its digest is {found['digest']!r}, but that of its boxes is {shots.digest!r}"
            )
        return shots


VOC_LISTS = "box_{shot}shot_{name}_train.txt"
COCO_LISTS = "full_box_{shot}shot_{name}_trainval.txt"


def read_published(
    root: str | Path,
    data: DetectionSet,
    classes: Sequence[str],
    shot: int,
    seed: int = 0,
    *,
    pattern: str = VOC_LISTS,
    names: Mapping[str, str] | None = None,
) -> Shots:
    """The published lists of images of FSRW and TFA for Pascal VOC and of FSRW for COCO: files such as
    ``box_5shot_bus_train.txt``, in the folder ``seed3`` for seeds above 0, one path of an image per line.

    All boxes of the class on the listed images are candidates, in the order of the list. Where they are more than K, K
    of them are drawn by the seed; which ones the publications drew is not known.

    Args:
        root: the folder, or its zip file.
        data: the data set that the images are of, by the names of their files.
        pattern: of the names of the files: ``VOC_LISTS`` or ``COCO_LISTS``.
        names: what a class is called in the names of the files, where that is not its name in ``data``.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the data lack an image that is listed, or have fewer than K boxes of a class.
    """
    by_stem = {Path(picture.name).stem: picture for picture in data.pictures}
    chosen = {}
    for name in classes:
        label = data.classes.index(name)
        found: list[tuple[str, int]] = []
        for line in _lines(Path(root), pattern.format(shot=shot, name=(names or {}).get(name, name)), seed):
            picture = by_stem.get(Path(line).stem)
            if picture is None:
                raise ValueError(f"{line} is listed for {name!r} but not among the {len(data)} images of the data")
            found += [(picture.name, at) for at in (picture.labels == label).nonzero()[:, 0].tolist()]
        if len(found) < shot:
            raise ValueError(f"class {name!r} has {len(found)} boxes on the listed images; expected shot = {shot}")
        order = torch.randperm(len(found), generator=generator_at(seed, "published", name)).tolist()
        kept = sorted(order[:shot]) if len(found) > shot else range(shot)
        chosen[name] = tuple(found[at] for at in kept)
    return Shots(shot, chosen, seed)


def _lines(root: Path, name: str, seed: int) -> Iterator[str]:
    inner = name if seed == 0 else f"seed{seed}/{name}"
    if root.is_dir():
        text = (root / inner).read_text(encoding="utf-8")
    else:
        with zipfile.ZipFile(root) as archive:
            found = [path for path in archive.namelist() if f"/{path}".endswith(f"/{inner}")]
            if not found:
                raise FileNotFoundError(f"{root} has no {inner}")
            text = archive.read(min(found, key=lambda path: path.count("/"))).decode()  # not those of another seed
    return filter(None, map(str.strip, text.splitlines()))
