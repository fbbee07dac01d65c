"""Pascal VOC at 320 pixels: nine base classes, then four new ones from 1 to 10 boxes each, from one base detector.

The data are a subset of VOC 2007 and 2012 in COCO's format: ``train.json``, ``test.json`` and ``images.zip`` in the
folder ``voc_subset``, and ImageNet weights of MobileNetV2 in ``weights_vision``. Base: person, car, cat, dog, horse,
sheep, train, chair, pottedplant; novel: bus, cow, motorbike, sofa. Two hundred training images are kept apart: on them
every method's learning rate is chosen for every K, with boxes of another seed. Every method then learns from the same
boxes, with the same number of steps, from the same detector. All that is done is kept in the output folder, so that a
run that was stopped goes on.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...core.protocols.seeding import generator_at
from ...core.reporting import Results
from ...core.reporting.results import replacing
from ..adapter import DetectionAdapter
from ..base import BaseTraining
from ..coco import Coco
from ..data import DetectionSet
from ..evaluation import detect, judge
from ..faster_rcnn import FasterRCNN
from ..memory import ROIMemory
from ..regions import extract, fill, stream
from ..shots import Shots
from ..tuning import FineTuning, Method

BASE = ("person", "car", "cat", "dog", "horse", "sheep", "train", "chair", "pottedplant")
NOVEL = ("bus", "cow", "motorbike", "sofa")
METHODS: dict[str, Method] = {
    "finetune": "finetune",
    "tfa": "tfa",
    "classic": "classic",
    "replay": "replay",
    "distill": "distill",
    "gaussian": "gaussian",
    "replay, shuffled labels": "replay",
}
SHOTS = (1, 3, 5, 10)
LEARNING_RATES = (0.001, 0.003, 0.01, 0.03)
GROUPS = ("base", "novel", "all")
VALIDATION = 200
OBJECTS = 1800
BACKGROUND = 900

DETECTOR = FasterRCNN(
    "mobilenet_v2",
    channels=128,
    head=512,
    regions=128,
    proposals=300,
    min_size=320,
    max_size=320,
    anchor=16,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


@dataclass(frozen=True)
class Settings:
    """How much is done; tests do less.

    Attributes:
        detector: the architecture.
        base: how the base classes are learned.
        tuning: how new ones are; method and learning rate are chosen by the recipe.
        images: of each of the sets, at most; None: all.
    """

    detector: FasterRCNN = DETECTOR
    base: BaseTraining = BaseTraining(steps=6000, images=4, lr=0.01, warmup=200)  # noqa: RUF009 (immutable)
    tuning: FineTuning = FineTuning(steps=200)  # noqa: RUF009 (immutable)
    images: int | None = None


def reproduce(
    *, seeds: int | None, data: Path | None, out: Path, only: Sequence[str], settings: Settings | None = None
) -> Results:
    """Runs the table.

    Args:
        seeds: draws of boxes; 3 by default.
        data: the folder with ``voc_subset`` and ``weights_vision``.
        out: folder for results, and for all that is done on the way.
        only: names of methods, or ``base``; all if empty.
        settings: how much is done.

    Raises:
        ValueError: there are no data, or an unknown name.
    """
    count = 3 if seeds is None else seeds
    if count < 1:
        raise ValueError(f"seeds is {seeds}; expected at least 1")
    unknown = [name for name in only if name not in (*METHODS, "base")]
    if unknown:
        raise ValueError(f"only is {unknown[0]!r}; expected some of base, {', '.join(METHODS)}")
    if data is None or not Path(data, "voc_subset", "train.json").is_file():
        raise ValueError(f"data is {str(data)!r}; expected a folder with voc_subset/train.json and weights_vision")
    table = Table(Path(data), Path(out), settings or Settings())
    results = Results("detection/voc-subset", {"base_steps": table.settings.base.steps, "digest": table.train.digest()})
    results.add("base detector", "base AP50", [table.base_precision()])
    for name in METHODS:
        if only and name not in only:
            continue
        for shot in SHOTS:
            cells = [table.cell(name, shot, seed) for seed in range(count)]
            for group in GROUPS:
                results.add(f"{name}, {shot} shot", f"{group} AP50", [cell[group] for cell in cells])
            results.add(f"{name}, {shot} shot", "seconds", [cell["seconds"] for cell in cells])
            results.add(f"{name}, {shot} shot", "memory MB", [cell["bytes"] / 1e6 for cell in cells])
            results.memory_bytes = max(results.memory_bytes, *(int(cell["bytes"]) for cell in cells))
            results.save(out)
    results.save(out)
    results.print(decimals=1)
    return results


class Table:
    """The parts of the table, each made once and kept in ``out``."""

    def __init__(self, data: Path, out: Path, settings: Settings) -> None:
        self.out, self.settings = out, settings
        folder, images = data / "voc_subset", data / "voc_subset" / "images.zip"
        every = [*BASE, *NOVEL]
        loaded = (Coco(folder / f"{name}.json", images, every).load() for name in ("train", "test"))
        learned, test = (part if settings.images is None else part.first(settings.images) for part in loaded)
        self.validation, self.train = learned.split(min(VALIDATION, len(learned) // 4))
        self.test: DetectionSet = test
        weights = data / "weights_vision" / "mobilenet_v2_imagenet_features.safetensors"
        self.architecture = replace(settings.detector, weights=weights if weights.is_file() else None)
        self.adapter = self._base()
        self.memories: dict[str, ROIMemory | None] = {}

    def _base(self) -> DetectionAdapter:
        folder = self.out / "base"
        if (folder / "manifest.json").is_file():
            return DetectionAdapter.load(folder)
        detector = self.architecture.build(len(BASE))
        torch.manual_seed(0)
        learned = self.train.of(BASE)
        self.settings.base.train(detector, learned, out=self.out / "base-run", resume=True, save_every=200)
        adapter = DetectionAdapter(self.architecture, detector, BASE)
        adapter.save(folder)
        return adapter

    def base_precision(self) -> float:
        """AP50 of the base classes before anything new is learned."""
        path = self.out / "base.json"
        if not path.is_file():
            found = judge(self.test.of(BASE, empty=True), detect(self.adapter.detector, self.test))
            _write(path, {"base": found.mean()})
        return float(_read(path)["base"])

    def memory(self, name: str, tuning: FineTuning) -> ROIMemory | None:
        """The memory of a method, filled from the base classes of all training images."""
        if name not in self.memories:
            folder, detector = self.out / "memory" / name.replace(", ", "-").replace(" ", "-"), self.adapter.detector
            if tuning.replays and (folder / "manifest.json").is_file():
                self.memories[name] = ROIMemory.load(folder)
            else:
                memory = tuning.new_memory(OBJECTS, BACKGROUND, fingerprint=detector.fingerprint())
                if memory is not None:
                    fill(memory, stream(detector, self.train.of(BASE)))
                    if name.endswith("shuffled labels"):
                        memory.shuffle_labels(generator_at(0, "shuffle"))
                    memory.save(folder)
                self.memories[name] = memory
        return copy.deepcopy(self.memories[name])

    def cell(self, name: str, shot: int, seed: int) -> dict[str, float]:
        """AP50 of base, novel and all classes on the test images, seconds, and bytes of the memory."""
        return self._run(name, shot, seed, self.rate(name, shot), self.test)

    def rate(self, name: str, shot: int) -> float:
        """The learning rate with the best AP50 over all classes on the validation images, for boxes of another seed."""
        if name == "replay, shuffled labels":
            return self.rate("replay", shot)
        tried = [self._run(name, shot, 100, lr, self.validation)["all"] for lr in LEARNING_RATES]
        return LEARNING_RATES[tried.index(max(tried))]

    def _run(self, name: str, shot: int, seed: int, lr: float, judged: DetectionSet) -> dict[str, float]:
        where = "test" if judged is self.test else "validation"
        path = self.out / "cells" / where / f"{name.replace(', ', '-').replace(' ', '-')}-{shot}-{seed}-{lr:g}.json"
        if path.is_file():
            return _read(path)
        tuning = replace(self.settings.tuning, method=METHODS[name], lr=lr)
        memory = self.memory(name, tuning)
        detector = copy.deepcopy(self.adapter.detector)
        shots = Shots.draw(self.train, NOVEL, shot, seed)
        shots.save(self.out / "shots" / f"{shot}-{seed}.json")
        began = time.process_time()
        detector.grow(len(NOVEL), generator_at(seed, "grow"))
        few = shots.of(self.train, [*BASE, *NOVEL])
        rows = extract(detector, few, passes=tuning.passes, seed=seed)
        tuning.tune(detector, few, memory, rows=rows, seed=seed, progress_bar=False)
        seconds = time.process_time() - began
        groups = judge(judged, detect(detector, judged)).groups(BASE)
        held = 0.0 if memory is None else float(memory.nbytes)
        _write(path, {**groups, "seconds": seconds, "bytes": held})
        return _read(path)


def _read(path: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, values: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(json.dumps(values) + "\n", encoding="utf-8")
