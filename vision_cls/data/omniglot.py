"""Omniglot: handwritten characters of fifty alphabets, twenty drawings of each, as Lake's archives have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from ...core.protocols.episodes import Episode
from .archive import Archive, find
from .class_parts import ClassData, ClassParts
from .image_set import ImageSet

Part = Literal["background", "evaluation", "background_small1", "background_small2"]

RUNS = 20
"""Official runs of 20-way one-shot classification."""

VALIDATION = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
NOVEL = (
    "Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya", "Sylheti",
    "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG", "Gurmukhi/character42", "Gurmukhi/character43",
    "Gurmukhi/character44", "Gurmukhi/character45",
)  # fmt: skip
"""What the split of Vinyals et al. holds out, alphabets and single characters."""


@dataclass(frozen=True)
class Omniglot(ClassData):
    """Omniglot parted by characters. By default all 1,623 with the split of Vinyals et al. (Matching Networks for One
    Shot Learning, NeurIPS 2016) as Snell et al. (2017) part it: 1,028 base, 172 validation, 423 novel characters.
    Without the archive of the evaluation alphabets, name parts and alphabets of your own.

    Args:
        parts: see `omniglot`.
        root: see `omniglot`.
        size: side in pixels.
        rotations: whether characters turned by 90, 180 and 270 degrees are further classes, in every part.
        novel: alphabets, or single characters as ``alphabet/character``, to be judged on.
        validation: likewise, to choose settings by.

    Raises:
        FileNotFoundError: an archive is not there.
        ValueError: an alphabet of which there are no images.
    """

    parts: Sequence[Part] = ("background", "evaluation")
    root: str | None = None
    size: int = 28
    rotations: bool = False
    novel: Sequence[str] = NOVEL
    validation: Sequence[str] = VALIDATION

    def load(self) -> ClassParts:
        images = omniglot(self.parts, root=self.root, size=self.size)
        held_out = {}
        for part, wanted in (("novel", self.novel), ("validation", self.validation)):
            found = {name: [c for c in images.classes if name in (c, c.partition("/")[0])] for name in wanted}
            if missing := [name for name, characters in found.items() if not characters]:
                raise ValueError(f"{part} is {missing}, of which {', '.join(self.parts)} have no images")
            held_out[part] = [character for characters in found.values() for character in characters]
        split = ClassParts.of(images, **held_out)
        if not self.rotations:
            return split
        return ClassParts(rotated(split.base), rotated(split.validation), rotated(split.novel))


def omniglot(
    parts: Part | Sequence[Part] = ("background", "evaluation"),
    *,
    root: str | Path | None = None,
    size: int = 28,
) -> ImageSet:
    """Characters of Omniglot (Lake, Salakhutdinov and Tenenbaum, Human-level concept learning through probabilistic
    program induction, Science 2015): one channel, uint8, ink 255 on 0. Classes are called ``alphabet/character``.

    Args:
        parts: ``"background"`` (30 alphabets, 964 characters) and ``"evaluation"`` (20 alphabets, 659 characters), or
            the two small background sets of five alphabets each. A class in several of them is taken once.
        root: a folder with ``images_background`` and so on, as folders or ``.zip`` files, either directly or in
            ``omniglot_small`` or ``omniglot-py`` (where torchvision puts them); by default ``$MEMREPLAY_DATA``.
        size: side in pixels to resize to; the drawings have 105.

    Raises:
        FileNotFoundError: a part is not there.
        ValueError: no such part.
    """
    images: list[Tensor] = []
    labels: list[int] = []
    classes: dict[str, int] = {}
    for part in (parts,) if isinstance(parts, str) else parts:
        if part not in get_args(Part):
            raise ValueError(f"parts is {part!r}; expected one of {', '.join(get_args(Part))}")
        archive = _find(root, f"images_{part}")
        drawings: dict[str, list[str]] = {}
        for name in archive.files((".png",)):
            alphabet, character = name.split("/")[-3:-1]
            drawings.setdefault(f"{alphabet}/{character}", []).append(name)
        for character, names in drawings.items():
            if character not in classes:
                classes[character] = len(classes)
                images.append(255 - archive.pixels(names, "L", size))
                labels += [classes[character]] * len(names)
    return ImageSet(torch.cat(images), torch.tensor(labels), tuple(classes), "train")


def omniglot_runs(*, root: str | Path | None = None, size: int = 28) -> tuple[ImageSet, list[Episode]]:
    """Lake's 20 runs of 20-way one-shot classification within an alphabet, as images and episodes over them: every run
    has one drawing of each of 20 characters, and another of each by a second person. No class of them is in a
    background set. Classes are called ``run01/class01`` and so on.

    Args:
        root: a folder with ``all_runs`` as a folder or ``.zip`` file, found like the parts of `omniglot`.
        size: side in pixels.

    Raises:
        FileNotFoundError: the runs are not there.
        ValueError: a run does not have what it should.
    """
    archive = _find(root, "all_runs")
    images: list[Tensor] = []
    labels: list[int] = []
    classes: dict[str, int] = {}
    episodes = []
    for number in range(RUNS):
        run = f"run{number + 1:02d}"
        pairs = [line.split() for line in archive.read(f"{run}/class_labels.txt").decode().splitlines() if line.strip()]
        if sorted({shown for _, shown in pairs}) != [f"{run}/training/class{i + 1:02d}.png" for i in range(len(pairs))]:
            raise ValueError(f"{run}/class_labels.txt in {archive} does not name every training image once")
        first = len(labels)
        shown = sorted(shown for _, shown in pairs)
        for name in shown:
            classes[f"{run}/{Path(name).stem}"] = len(classes)
        images.append(255 - archive.pixels([*shown, *(asked for asked, _ in pairs)], "L", size))
        answers = torch.tensor([shown.index(name) for _, name in pairs])
        support = torch.arange(first, first + len(shown))
        known = torch.arange(len(shown)) + len(classes) - len(shown)
        labels += [*known.tolist(), *known[answers].tolist()]
        query = support + len(shown)
        episodes.append(Episode(number, known, support, query, torch.arange(len(shown)), answers))
    return ImageSet(torch.cat(images), torch.tensor(labels), tuple(classes), "test"), episodes


def rotated(images: ImageSet) -> ImageSet:
    """The images and those turned by 90, 180 and 270 degrees, each turn a class of its own (Vinyals et al., Matching
    Networks for One Shot Learning, NeurIPS 2016; Santoro et al., Meta-Learning with Memory-Augmented Neural Networks,
    ICML 2016). Classes are called ``.../rot090`` and so on.

    >>> rotated(ImageSet(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), ("a", "b"), "train")).classes[2:5]
    ('a/rot090', 'b/rot090', 'a/rot180')
    """
    turns = range(4)
    n = len(images.classes)
    return ImageSet(
        torch.cat([images.images.rot90(turn, (2, 3)) for turn in turns]),
        torch.cat([images.labels + turn * n for turn in turns]),
        tuple(f"{name}/rot{90 * turn:03d}" for turn in turns for name in images.classes),
        images.split,
    )


def _find(root: str | Path | None, name: str) -> Archive:
    return find(name, root, ("omniglot_small", "omniglot-py", "omniglot"))
