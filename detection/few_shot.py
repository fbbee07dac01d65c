"""FewShot: base classes from many boxes, then new ones from K boxes each, by several methods from one detector."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from ..core.batch import Batch, concat
from ..core.checkpoint import Progress
from ..core.precision import has_bf16
from ..core.protocols.metrics import harmonic_mean
from ..core.protocols.seeding import generator_at
from ..core.reporting import Results
from ..core.reporting.results import replacing
from ..core.training import new_accelerator
from .adapter import DetectionAdapter
from .base import BaseTraining
from .data import DetectionSet
from .detections import Detections
from .detector import Detector
from .evaluation import METRICS, detect, judge, judge_voc
from .faster_rcnn import FasterRCNN
from .memory import ROIMemory
from .parts import Parts
from .proposals import Proposals
from .prototypes import PrototypeCalibration
from .regions import stream
from .shots import Shots
from .tuning import METHODS, FineTuning

SHUFFLED = "replay, shuffled labels"
ROWS: dict[str, dict[str, Any]] = {
    "finetune": {"method": "finetune"},
    "tfa": {"method": "tfa"},
    "classic": {"method": "classic"},
    "replay": {"method": "replay"},
    "distill": {"method": "distill", "back": 0.0},
    "gaussian": {"method": "gaussian"},
    "distill, half way back": {"method": "distill", "back": 0.5},
    "finetune, half way back": {"method": "finetune", "back": 0.5},
    "distill, old scores apart": {"method": "distill", "back": 0.5, "apart": True, "lift": 1.0},
    "finetune, old scores apart": {"method": "finetune", "back": 0.5, "apart": True, "lift": 1.0},
    "distill, old scores apart, prototypes": {"method": "distill", "back": 0.5, "apart": True, "lift": 2.0},
    "tfa, prototypes": {"method": "tfa"},
    SHUFFLED: {"method": "replay"},
}
"""What each row sets of `FineTuning`; the last is a control: replay whose memory has the labels of objects exchanged
at random."""
CALIBRATED = tuple(name for name in ROWS if name.endswith("prototypes"))
"""The rows whose scores of new classes are calibrated by `FewShot.calibration`, in tables that have one."""
BASE = "base"
CURVES = "curves"
NAMES = (BASE, CURVES, *ROWS)
"""All that a table can be asked for, see `fill_in`."""
GROUPS = ("base", "novel", "all")
AP_BY_DETECTRON2 = "AP by detectron2"
"""A metric of tables whose detectors are detectron2's: what its own evaluator says, and ours should too."""
REHEARSAL = 100
"""The seed of the boxes that learning rates are chosen with."""


@dataclass(frozen=True)
class FewShot:
    """What is done, and how much of it.

    Attributes:
        detector: the architecture.
        base: how the base classes are learned.
        tuning: how new ones are; method, learning rate and calibration are chosen by the table.
        calibration: of the rows with prototypes; None: there are no such rows.
        shots: the numbers of boxes, K.
        learning_rates: that are tried for every method,
        rehearsal: with this many boxes.
        objects: regions of objects in a memory, the same number of every class,
        background: and of background.
        moments: steps at which curves are read,
        curve_shot: with this many boxes.
        mixed_precision: of the base training, as accelerate knows it; with ``bf16`` also of all that the base detector
            extracts and finds, where fine-tuning itself is in full precision; a processor that has no ``bf16`` does all
            in full precision.
        pooled: keep so many pooled proposals of each image to judge on, so that it passes the backbone once; one takes
            ``channels`` x ``pool`` x ``pool`` x 2 bytes. None: images pass whole for every figure.
        voc: judge by VOC's own AP50 as well.
    """

    detector: FasterRCNN = FasterRCNN()  # noqa: RUF009 (immutable)
    base: BaseTraining = BaseTraining()  # noqa: RUF009
    tuning: FineTuning = FineTuning()  # noqa: RUF009
    calibration: PrototypeCalibration | None = None
    shots: tuple[int, ...] = (1, 2, 3, 5, 10)
    learning_rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03)
    rehearsal: int = 5
    objects: int = 1800
    background: int = 900
    moments: tuple[int, ...] = (10, 25, 50, 100, 200)
    curve_shot: int = 5
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    pooled: int | None = None
    voc: bool = False

    def weighted(self, weights: Path | None) -> FewShot:
        """With a file of weights for the backbone, which is the classifier of the calibration as well, before it learns
        to detect; None: random ones, and no calibration."""
        calibration = None
        if self.calibration is not None and weights is not None:
            calibration = replace(self.calibration, weights=weights)
        return replace(self, detector=replace(self.detector, weights=weights), calibration=calibration)


class Table:
    """The parts of a table, each made once and kept in ``out``, so that a run that was stopped goes on.

    Every method learns from the same boxes, with the same number of steps, from the same detector. Its learning rate is
    the one with the best harmonic mean of base and novel AP50 on the validation images, with boxes of another draw; one
    for all K.

    Args:
        plan: what is done.
        base: names of the base classes,
        novel: and of the new ones.
        parts: the images.
        out: folder; a detector that knows the base classes is taken from its folder ``base``, if there is one.
        published: from K and a seed to boxes that others drew, on any of the learned images; by default they are drawn
            from those to learn from, as those that learning rates are chosen with always are.

    Raises:
        ValueError: the detector in ``base`` knows other classes.
    """

    def __init__(
        self,
        plan: FewShot,
        base: Sequence[str],
        novel: Sequence[str],
        parts: Parts,
        out: Path,
        published: Callable[[int, int], Shots] | None = None,
    ) -> None:
        self.plan, self.base, self.novel, self.out = plan, tuple(base), tuple(novel), out
        self.parts, self.published = parts.of([*base, *novel]), published
        self.adapter = self._base()
        self.adapter.detector.tap = plan.tuning.tap
        self._proposed: dict[str, Proposals] = {}
        self._filled: dict[str, ROIMemory] = {}
        self._last: tuple[tuple[int, int], Start] | None = None

    def before(self) -> dict[str, float]:
        """The figures of the base classes before anything new is learned."""
        path = self.out / "base.json"
        if not path.is_file():
            _write(path, self._judge(self.parts.test, self.adapter.detector, self.base))
        return _read(path)

    def cell(self, name: str, shot: int, seed: int) -> dict[str, float]:
        """The figures of base, novel and all classes on the test images, seconds, and bytes of the memory."""
        return self._run(name, shot, seed, self.rate(name), self.parts.test)

    def rate(self, name: str) -> float:
        """The learning rate that is chosen on the validation images."""
        if name == SHUFFLED:
            return self.rate("replay")
        rates = self.plan.learning_rates
        if len(rates) == 1:
            return rates[0]
        shot = self.plan.rehearsal
        tried = [self._run(name, shot, REHEARSAL, lr, self.parts.validation)["harmonic AP50"] for lr in rates]
        return rates[tried.index(max(tried))]

    def curve(self, name: str, shot: int, seed: int) -> dict[str, float]:
        """Base and novel AP50 on the test images after some steps, and the seconds until then."""
        path = self.out / "curves" / f"{name}-{shot}-{seed}.json"
        if not path.is_file():
            lr, start = self.rate(name), self._start(shot, seed)
            detector = copy.deepcopy(start.detector)
            found: dict[str, float] = {}
            looking = 0.0

            def look(progress: Progress) -> None:
                nonlocal looking
                if progress.step in self.plan.moments:
                    began = time.perf_counter()
                    groups = self._judge(self.parts.test, detector)
                    found.update({f"{group} {progress.step}": groups[f"{group} AP50"] for group in GROUPS})
                    found[f"seconds {progress.step}"] = progress.seconds - looking
                    looking += time.perf_counter() - began

            self._tune(name, lr, detector, start, seed, on_step_end=look)
            _write(path, found)
        return _read(path)

    def _run(self, name: str, shot: int, seed: int, lr: float, judged: DetectionSet) -> dict[str, float]:
        where = "test" if judged is self.parts.test else "validation"
        path = self.out / "cells" / where / f"{name.replace(', ', '-').replace(' ', '-')}-{shot}-{seed}-{lr:g}.json"
        if not path.is_file():
            start = self._start(shot, seed)
            detector = copy.deepcopy(start.detector)
            if self._tuning(name, lr).replays:
                self._memories()  # filled once for all runs, and in the time of none
            began = time.process_time()
            memory = self._tune(name, lr, detector, start, seed)
            seconds = start.seconds + time.process_time() - began
            held = 0.0 if memory is None else float(memory.nbytes)
            _write(path, {**self._judge(judged, detector), "seconds": seconds, "bytes": held})
        return _read(path)

    def _tuning(self, name: str, lr: float) -> FineTuning:
        calibration = self.plan.calibration if name in CALIBRATED else None
        return replace(self.plan.tuning, lr=lr, calibration=calibration, **ROWS[name])

    def _tune(
        self, name: str, lr: float, detector: Detector, start: Start, seed: int, **options: Any
    ) -> ROIMemory | None:
        """Teaches ``detector`` by a method; returns the memory it used."""
        tuning = self._tuning(name, lr)
        held = SHUFFLED if name == SHUFFLED else tuning.method
        memory = copy.deepcopy(self._memories()[held]) if tuning.replays else None
        tuning.tune(detector, start.few, memory, rows=start.rows, seed=seed, progress_bar=False, **options)
        return memory

    def _judge(
        self, judged: DetectionSet, detector: Detector, classes: Sequence[str] | None = None
    ) -> dict[str, float]:
        found = self._found(judged, detector)
        judged = judged if classes is None else judged.of(classes, empty=True)
        precision = judge(judged, found)
        figures = {
            f"{group} {metric}": value
            for metric in METRICS
            for group, value in precision.groups(self.base, metric).items()
        }
        figures["harmonic AP50"] = harmonic_mean(figures["base AP50"], figures["novel AP50"])
        if self.plan.voc:
            own = judge_voc(judged, found).groups(self.base)
            figures |= {f"{group} VOC AP50": value for group, value in own.items()}
        if self.adapter.architecture.backend == "detectron2":
            from .detectron2 import evaluation

            own = evaluation.judge(judged, found).groups(self.base, "AP")
            figures |= {f"{group} {AP_BY_DETECTRON2}": value for group, value in own.items()}
        return {name: value for name, value in figures.items() if value == value}

    def _found(self, judged: DetectionSet, detector: Detector) -> list[Detections]:
        if self.plan.pooled is None:
            return detect(detector, judged)
        where = "test" if judged is self.parts.test else "validation"
        if where not in self._proposed:
            with self._mixed():
                self._proposed[where] = Proposals.of(self.adapter.detector, judged, self.plan.pooled)
        with self._mixed():
            return self._proposed[where].found(detector)

    def _mixed(self) -> AbstractContextManager[Any]:
        kind = next(self.adapter.detector.parameters()).device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self._precision == "bf16")

    @property
    def _precision(self) -> str:
        """What the plan says, but no precision that would only be imitated here."""
        wanted = self.plan.mixed_precision
        return wanted if wanted != "bf16" or has_bf16() else "no"

    # -- made once ----------------------------------------------------------------------------------------------------

    def _base(self) -> DetectionAdapter:
        folder = self.out / "base"
        if (folder / "manifest.json").is_file():
            adapter = DetectionAdapter.load(folder)
            if adapter.classes != list(self.base):
                raise ValueError(f"{folder} knows the classes {adapter.classes}; expected {list(self.base)}")
            return adapter
        accelerator = new_accelerator(mixed_precision=self._precision)
        detector = self.plan.detector.build(len(self.base)).to(accelerator.device)
        torch.manual_seed(0)
        run = self.out / "base-run"
        learned = self.parts.train.of(self.base)
        self.plan.base.train(detector, learned, accelerator=accelerator, out=run, resume=True, save_every=250)
        adapter = DetectionAdapter(self.plan.detector, detector, self.base)
        adapter.save(folder)
        return adapter

    def _memories(self) -> dict[str, ROIMemory]:
        """The memory of every method that has one, filled from the base classes of all training images, and that of the
        control."""
        if not self._filled:
            detector = self.adapter.detector
            for method in METHODS:
                tuning = replace(self.plan.tuning, method=method)
                memory = tuning.new_memory(self.plan.objects, self.plan.background, fingerprint=detector.fingerprint())
                if memory is not None:
                    self._filled[method] = memory
            with self._mixed():
                for rows in stream(detector, self.parts.train.of(self.base)):
                    for memory in self._filled.values():
                        memory.add(rows)
            self._filled[SHUFFLED] = copy.deepcopy(self._filled["replay"])
            self._filled[SHUFFLED].shuffle_labels(generator_at(0, "shuffle"))
        return self._filled

    def _start(self, shot: int, seed: int) -> Start:
        """What all methods start from, for some boxes."""
        if self._last is None or self._last[0] != (shot, seed):
            if self.published is None or seed == REHEARSAL:
                shots = Shots.draw(self.parts.train, self.novel, shot, seed)
            else:
                shots = self.published(shot, seed)
            shots.save(self.out / "shots" / f"{shot}-{seed}.json")
            detector = copy.deepcopy(self.adapter.detector)
            detector.grow(len(self.novel), generator_at(seed, "grow"))
            few = shots.of(self.parts.learned, [*self.base, *self.novel])
            began = time.process_time()
            with self._mixed():
                parts = list(stream(detector, few, passes=self.plan.tuning.passes, seed=seed))
            rows = concat(parts)  # autocast knows no half precision on CPUs
            self._last = (shot, seed), Start(detector, few, rows, time.process_time() - began)
        return self._last[1]


@dataclass(frozen=True)
class Start:
    """What all methods start from.

    Attributes:
        detector: the base detector, with a place for the new classes.
        few: the images with K boxes of each.
        rows: their regions.
        seconds: that it took to extract these.
    """

    detector: Detector
    few: DetectionSet
    rows: Batch
    seconds: float


def fill_in(
    results: Results,
    table: Table,
    seeds: int,
    only: Sequence[str] = (),
    *,
    metrics: Sequence[str] = ("AP50",),
    published: Mapping[tuple[str, str], float] | None = None,
    prefix: str = "",
) -> None:
    """Makes the cells of a table, row by row, and adds them to ``results``, which are saved after every row.

    Args:
        seeds: draws of boxes.
        only: names of methods; ``base`` for the base detector alone, ``curves`` for AP50 against steps, of fine-tuning
            and replay; all if empty.
        metrics: to show.
        published: figures to compare with, by name of the row and metric.
        prefix: of the names of the rows.

    Raises:
        ValueError: rows with prototypes are asked for, and the plan has no calibration.
    """
    known = published or {}

    def add(name: str, metric: str, values: Sequence[float]) -> None:
        results.add(f"{prefix}{name}", metric, values, known.get((name, metric)))

    for metric in metrics:
        add("base detector", f"base {metric}", [table.before()[f"base {metric}"]])
    results.save(table.out)
    lacking = CALIBRATED if table.plan.calibration is None else ()
    for name in only:
        if name in lacking:
            raise ValueError(f"only is {name!r}, and there are no weights for the classifier; expected other names")
    chosen = [name for name in ROWS if name not in lacking and (not only or name in only)]
    rates = {name: table.rate(name) for name in chosen}
    # the K of the rehearsal first, so that a run that was stopped has a whole block of figures
    for shot in sorted(table.plan.shots, key=lambda shot: shot != table.plan.rehearsal):
        cells = {(name, seed): table.cell(name, shot, seed) for seed in range(seeds) for name in chosen}
        for name in chosen:
            row, own = f"{name}, {shot} shot", [cells[name, seed] for seed in range(seeds)]
            for metric in metrics:
                for group in GROUPS:
                    add(row, f"{group} {metric}", [cell[f"{group} {metric}"] for cell in own])
            add(row, "seconds", [cell["seconds"] for cell in own])
            add(row, "memory MB", [cell["bytes"] / 1e6 for cell in own])
            results.memory_bytes = max(results.memory_bytes, *(int(cell["bytes"]) for cell in own))
        results.save(table.out)
    results.config["learning_rates"] = {
        **results.config.get("learning_rates", {}),
        **{f"{prefix}{n}": r for n, r in rates.items()},
    }
    results.save(table.out)
    if not only or CURVES in only:
        for name in ("finetune", "replay"):
            curves = [table.curve(name, table.plan.curve_shot, seed) for seed in range(seeds)]
            for step in table.plan.moments:
                row = f"{name}, {table.plan.curve_shot} shot, {step} steps"
                for group in GROUPS:
                    add(row, f"{group} AP50", [curve[f"{group} {step}"] for curve in curves])
                add(row, "seconds", [curve[f"seconds {step}"] for curve in curves])
            results.save(table.out)


def _read(path: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, values: Mapping[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(json.dumps(values) + "\n", encoding="utf-8")
