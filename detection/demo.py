"""Demo: a detector of handwritten digits learns new digits from five boxes each, with and without a memory of regions.

The scenes are composed of scikit-learn's real digits. A small detector learns six digits from images; then four new
ones follow, from five boxes of each, by every method from the same start, with the same boxes and the same number of
steps. Each method has its own learning rate, chosen in a rehearsal with other boxes, on scenes of the handwriting that
is learned from: the one with the best harmonic mean of base and novel AP50. Fine-tuning without memory is shown a
second time, with the learning rate that is best for the new digits alone: what it costs to learn them as well as it
can. The test scenes, of other handwriting, are looked at once, at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TypeAlias

import torch

from ..core.batch import Batch
from ..core.protocols.intervals import paired_interval
from ..core.protocols.metrics import harmonic_mean
from ..core.protocols.seeding import generator_at
from ..core.reporting import Results
from ..core.reporting.progress import waited
from . import shots as split
from .base import BaseTraining
from .data import DetectionSet
from .detector import Detector
from .evaluation import detect, judge
from .faster_rcnn import FasterRCNN
from .memory import ROIMemory
from .pictures import drawn, held
from .proposals import Proposals
from .regions import extract, fill
from .scenes import digit_scenes
from .tuning import FineTuning, Method

DETECTORS = range(2)
DRAWS = range(3)
LEARNING_RATES = (0.001, 0.003, 0.01, 0.03)
SHOWN: tuple[Method, ...] = ("finetune", "replay")
FOR_NOVEL = "finetune, best for new"
SHUFFLED = "replay, shuffled labels"
SHOT = 5
OBJECTS = 300
BACKGROUND = 150
METRICS = ("base", "novel", "all", "harmonic")

DETECTOR = FasterRCNN(
    backbone="small",
    levels=(4, 8),
    channels=48,
    pool=5,
    head=128,
    regions=16,
    positive=0.5,
    proposals=50,
    min_size=64,
    max_size=64,
    anchor=12,
    ratios=(1.0,),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
BASE = BaseTraining(steps=550, images=8, lr=0.004, optimizer="adamw", warmup=40, clip_norm=5.0, flip=0.0)
TUNING = FineTuning(steps=120, regions=64, replay=64, passes=4)


@dataclass
class Start:
    """What every method starts from.

    Attributes:
        digits: all ten, the base digits first.
        detector: knows the base digits.
        images: that it learned from,
        rows: and regions of these.
        scenes: of all digits, to draw boxes from; to judge on in rehearsal; and to judge on.
        proposed: regions of the last two, which no method changes: only heads learn new digits.
    """

    digits: list[int]
    detector: Detector
    images: DetectionSet
    rows: Batch
    scenes: tuple[DetectionSet, DetectionSet, DetectionSet]
    proposed: tuple[Proposals, Proposals]

    @property
    def base(self) -> list[str]:
        """The names of the base digits."""
        return [str(digit) for digit in self.digits[:6]]


def learn_base(seed: int, memory: ROIMemory | None = None) -> Start:
    """Which digits are base is drawn by the seed; a memory takes in regions while they are learned."""
    digits = torch.randperm(10, generator=generator_at(seed, "digits")).tolist()
    images = digit_scenes(600, digits[:6], size=64, seed=seed)
    detector = DETECTOR.build(6, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BASE.train(detector, images, memory, seed=seed, progress_bar=False)
    scenes = [
        digit_scenes(n, digits, split=split, size=64, seed=seed + far)
        for n, split, far in ((150, "train", 1000), (60, "train", 2000), (100, "test", 3000))
    ]
    rows = extract(detector, images.first(300), seed=seed)
    proposed = tuple(Proposals.of(detector, part) for part in scenes[1:])
    return Start(digits, detector, images, rows, (scenes[0], scenes[1], scenes[2]), (proposed[0], proposed[1]))


@dataclass
class Shots:
    """Five boxes of each new digit.

    Attributes:
        detector: with a place for the new digits, which it does not know yet.
        data: the images with these boxes.
        rows: their regions.
    """

    detector: Detector
    data: DetectionSet
    rows: Batch


def draw(start: Start, seed: int) -> Shots:
    """The boxes for a seed."""
    names = [str(digit) for digit in start.digits]
    shots = split.Shots.draw(start.scenes[0], names[6:], SHOT, seed).of(start.scenes[0], names)
    detector = copy.deepcopy(start.detector)
    detector.grow(4, generator_at(seed, "grow"))
    return Shots(detector, shots, extract(detector, shots, passes=TUNING.passes, seed=seed))


def teach(
    start: Start, shots: Shots, tuning: FineTuning, seed: int, shuffled: bool
) -> tuple[Detector, ROIMemory | None]:
    """The detector that has learned the new digits, and its memory."""
    detector = copy.deepcopy(shots.detector)
    memory = tuning.new_memory(OBJECTS, BACKGROUND, seed=seed, fingerprint=detector.fingerprint())
    if memory is not None:
        fill(memory, start.rows)
        if shuffled:
            memory.shuffle_labels(generator_at(seed, "shuffle"))
    tuning.tune(detector, shots.data, memory, rows=shots.rows, seed=seed, progress_bar=False)
    return detector, memory


def run(
    start: Start, shots: Shots, tuning: FineTuning, seed: int, test: bool = True, shuffled: bool = False
) -> dict[str, float]:
    """Base, novel, overall and harmonic AP50 of a method on the scenes of the test, or of the rehearsal, and the bytes
    of its memory."""
    detector, memory = teach(start, shots, tuning, seed, shuffled)
    found = judge(start.scenes[1 + test], start.proposed[test].found(detector)).groups(start.base)
    found["harmonic"] = harmonic_mean(found["base"], found["novel"])
    return {**found, "bytes": 0.0 if memory is None else float(memory.nbytes)}


Rehearsal: TypeAlias = dict[str, list[dict[str, float]]]
"""The figures of every method, for every learning rate."""


def rehearse(start: Start, seed: int) -> Rehearsal:
    """Tries the learning rates with other boxes and scenes than those of the test."""
    shots = draw(start, seed + 100)
    return {
        method: [run(start, shots, replace(TUNING, method=method, lr=lr), seed, test=False) for lr in LEARNING_RATES]
        for method in SHOWN
    }


def measure(start: Start, rates: Mapping[str, float], seed: int) -> dict[str, dict[str, float]]:
    """The figures of every method on the test scenes; those of the detector before it learned anything new as well."""
    shots = draw(start, seed)
    before = judge(start.scenes[2], start.proposed[1].found(start.detector)).groups(start.base)
    found = {"before": {"base": before["base"]}}
    for method in SHOWN:
        tuning = replace(TUNING, method=method, lr=rates[method])
        found[method] = run(start, shots, tuning, seed)
    tuning = replace(TUNING, method="finetune", lr=rates[FOR_NOVEL])
    found[FOR_NOVEL] = run(start, shots, tuning, seed)
    tuning = replace(TUNING, method="replay", lr=rates["replay"])
    found[SHUFFLED] = run(start, shots, tuning, seed, shuffled=True)
    return found


_STARTS: dict[int, Start] = {}
"""The detector that this process learned, by its seed."""


def first(seed: int) -> Rehearsal:
    """Learns the base digits, and rehearses."""
    _STARTS[seed] = learn_base(seed)
    return rehearse(_STARTS[seed], seed)


def then(seed: int, draw: int, rates: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Measures with the detector that `first` learned, for other boxes with every draw."""
    return measure(_STARTS[seed], rates, len(DETECTORS) * draw + seed)


def pictures(seed: int, rates: Mapping[str, float], path: Path) -> None:
    """Draws what is found on some scenes before new digits are learned, and after, without memory and with it; and into
    a second picture, what that memory holds.
    """
    from PIL import Image

    start = _STARTS[seed]
    shots = draw(start, seed)
    detectors, memory = [start.detector], None
    for method in ("finetune", "replay"):
        tuning = replace(TUNING, method=method, lr=rates[method])
        detector, memory = teach(start, shots, tuning, seed, False)
        detectors.append(detector)
    scenes = start.scenes[2].first(4)
    names = {place: str(digit) for place, digit in enumerate(start.digits)}
    sheet = Image.new("RGB", (260 * len(detectors), 260 * len(scenes)), "white")
    for column, detector in enumerate(detectors):
        for row, found in enumerate(detect(detector, scenes)):
            sheet.paste(drawn(scenes.image(row), found.above(0.5), names, 4), (260 * column, 260 * row))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    assert memory is not None
    held(memory, start.images, dict(list(names.items())[:6])).save(path.with_name("memory.png"))


def demo(out: Path) -> None:
    """Learns, rehearses, measures, prints the table, and writes ``results.json`` and the pictures to ``out``."""
    print(f"A detector learns 6 digits, then 4 new ones from {SHOT} boxes each. What does it still find?\n")
    results = Results("detection/demo", {"shot": SHOT, "steps": TUNING.steps})
    context = get_context("spawn")
    # a process for each detector, which stays in it
    pools = {seed: ProcessPoolExecutor(1, context, torch.set_num_threads, (1,)) for seed in DETECTORS}
    try:
        tried = [pool.submit(first, seed) for seed, pool in pools.items()]
        rehearsals = waited(tried, "learning 6 digits, rehearsing")
        rates: dict[str, float] = {name: best(rehearsals, name, "harmonic") for name in SHOWN}
        rates[FOR_NOVEL] = best(rehearsals, "finetune", "novel")
        print("learning rates chosen in rehearsal: " + ", ".join(f"{name} {lr:g}" for name, lr in rates.items()))
        tasks = [pool.submit(then, seed, draw, rates) for draw in DRAWS for seed, pool in pools.items()]
        shown = pools[0].submit(pictures, 0, rates, out / "pictures.png")
        measured = waited(tasks, "measuring")
        shown.result()
    finally:
        for pool in pools.values():
            pool.shutdown()
    results.config["learning_rates"] = rates
    results.add("before", "base", [run["before"]["base"] for run in measured])
    for name in (SHOWN[0], FOR_NOVEL, *SHOWN[1:], SHUFFLED):
        for metric in METRICS:
            results.add(name, metric, [run[name][metric] for run in measured])
            told = "overall" if metric == "all" else metric
            results.add_point(name, told, "session", 1, [run[name][metric] for run in measured])
        results.add_point(name, "base", "session", 0, [run["before"]["base"] for run in measured])
        results.add_cost(name, bytes=[run[name]["bytes"] for run in measured])
    results.memory_bytes = max(int(run["replay"]["bytes"]) for run in measured)
    results.print(decimals=1)
    for other in ("finetune", FOR_NOVEL):
        for metric in ("base", "novel"):
            with_memory, without = ([run[name][metric] for run in measured] for name in ("replay", other))
            gain = paired_interval(with_memory, without)
            print(f"replay minus {other}, {metric} AP50, same start and boxes: {gain:.1f}")
    path = results.save(out)
    print(
        f"AP50 in percent, mean ± 95 % interval over {len(measured)} runs: {len(DETECTORS)} detectors, each with "
        f"{len(DRAWS)} draws of boxes.\nThe memory holds {OBJECTS} regions of objects and {BACKGROUND} of background, "
        f"{results.memory_bytes / 1e6:.1f} MB. Wrote {path}, {out / 'pictures.png'} and memory.png"
    )


def best(rehearsals: Sequence[Rehearsal], method: str, metric: str) -> float:
    """The learning rate with the best mean over the rehearsals."""
    tried = zip(*(rehearsal[method] for rehearsal in rehearsals), strict=True)
    means = [sum(found[metric] for found in column) for column in tried]
    return LEARNING_RATES[means.index(max(means))]
