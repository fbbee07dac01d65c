"""Speed of adaptation: new classes learned from 1, 2, 5 and 10 images, accuracy by steps, recall on and off.

What is known of old and new classes after 0 to 100 steps on the images of the new ones, from the same start with recall
and without, on

- ``digits``: scikit-learn's handwritten digits, a perceptron whose weights all learn; four new digits join six;
- ``mini-imagenet``: ImageNet MobileNetV2 features of the 60 base classes of mini-ImageNet, a linear head; five new
  classes join 55. These features have seen ImageNet's classes: it is transfer. Beside it ``recall and spread``, where
  new images are also moved as remembered ones differ from their class (`LentSpread`), so that a head does not learn a
  single shot by heart; and ``solved``: the head solved for the memory and the new images, every class with the same
  say, as an adapter does before it asks its memory.

The memory holds 20 images of each old class, and 32 of them are recalled in a step. Every seed draws other new classes.
Learning rates are chosen for every seed in a rehearsal on training images of its old classes, some of which stand in
for the new ones, at 1 and 5 shots; test images take no part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.batch import Batch, concat
from ...core.heads import LogisticRegression, equal_say
from ...core.incremental import LentSpread
from ...core.incremental.adaptation import (
    SHOTS,
    STEPS,
    HeadStart,
    Outcome,
    Start,
    by_age,
    by_steps,
    first_shots,
    rehearse,
    stopwatch,
)
from ...core.protocols.labels import rows_by_class
from ...core.protocols.metrics import harmonic_mean
from ...core.protocols.seeding import generator_at
from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ...core.selection import ClassBalanced
from ...core.stores import Store
from ...core.stores.keeping import Reservoir
from ..backbones import MLP, TorchvisionModel
from ..data import digits
from ..data.few_shot_stream import mini_imagenet_stream
from ..data.image_set import Split
from ..features import default_cache, features_of
from ..learner import Learner, Stage
from ..network_start import NetworkStart

SEEDS = 5
PER_CLASS = 20
VALID = 10
"""Images of every class that a rehearsal is judged on."""
NETWORK_RATES = (0.01, 0.03, 0.1, 0.3)
HEAD_RATES = (0.001, 0.003, 0.01, 0.03)
REHEARSED = (1, 5)
"""Numbers of shots in a rehearsal."""
SPREAD = "recall and spread"
SIZE = 193
DATA = ("digits", "mini-imagenet")


def reproduce(*, seeds: int | None = None, data: Path | None = None, out: Path, only: Sequence[str] = ()) -> Results:
    """Runs both and prints the table.

    Args:
        seeds: how many draws of the new classes; 5 by default.
        data: folder with ``mini_imagenet_fscil`` and ``weights_vision/mobilenet_v2_imagenet_features.safetensors``; by
            default ``$MEMREPLAY_DATA``.
        out: folder for the results.
        only: ``digits`` or ``mini-imagenet``.

    Raises:
        ValueError: ``only`` names neither.
        FileNotFoundError: the data is not there.
    """
    check_asked(only, DATA)
    results = Results("vision_cls/adaptation", {"per_class": PER_CLASS, "steps": [0, *STEPS], "shots": list(SHOTS)})
    for name in only or DATA:
        train, test = _digits() if name == "digits" else _mini_imagenet(data)
        new = 4 if name == "digits" else 5
        found: dict[str, list[Outcome]] = {}
        chosen = []
        for seed in range(SEEDS if seeds is None else seeds):
            outcomes, rates = adapt(name, train, test, new, seed)
            chosen.append(rates)
            for row, outcome in outcomes.items():
                found.setdefault(f"{name}, {row}", []).append(outcome)
            print(f"{name}, seed {seed}: learning rates {chosen[-1]}")
        results.config[f"learning rates, {name}"] = chosen
        for row, of_seeds in found.items():
            harmonic = [harmonic_mean(outcome["old after"], outcome["new after"]) for outcome in of_seeds]
            results.add(row, "harmonic", harmonic)
            for metric in ("old after", "new after", "processor seconds"):
                results.add(row, metric, [outcome[metric] for outcome in of_seeds])
    results.print()
    print(f"accuracy in percent, mean ± 95 % interval over the draws; wrote {results.save(out)}")
    return results


def _arm(recall: bool) -> str:
    return f"recall {'on' if recall else 'off'}"


def adapt(name: str, train: Batch, test: Batch, new: int, seed: int) -> tuple[dict[str, Outcome], dict[str, float]]:
    """The outcomes of one draw of ``new`` new classes, and the learning rates that a rehearsal chose."""
    start_of: Callable[[Batch, Batch, int], Start] = _network_start if name == "digits" else _head_start
    rates_of = NETWORK_RATES if name == "digits" else HEAD_RATES
    order = torch.randperm(int(train["label"].max()) + 1, generator=generator_at(seed, "new classes"))
    old = order[: len(order) - new]

    kept, held_out = _parted(_of_classes(train, old), VALID)
    stand_ins = new if name != "digits" else 2
    known, added = _split(kept, len(old) - stand_ins)
    rehearsed = start_of(known, held_out, seed)
    choose = partial(rehearse, rows=added, seed=seed, rates=rates_of, shots=REHEARSED)
    rates = {_arm(recall): lr for recall, lr in choose(rehearsed).items()}
    if isinstance(rehearsed, HeadStart):
        rates[SPREAD] = choose(replace(rehearsed, spread=LentSpread()))[True]

    known, added = _split(_of_classes(train, order), len(old))
    judged = _of_classes(test, order)
    start = start_of(known, judged, seed)
    some = partial(first_shots, added)
    steps = (0, *STEPS)
    recalls = {True: rates[_arm(True)], False: rates[_arm(False)]}
    outcomes = by_steps(start, some, recalls, seed=seed, shots=SHOTS, steps=steps)
    if isinstance(start, HeadStart):
        lent = replace(start, spread=LentSpread())
        for shot in SHOTS:
            for n in steps:
                outcomes[f"{shot}-shot, {SPREAD}, {n} steps"] = lent.trained(some(shot), n, rates[SPREAD], True, seed)
        outcomes |= {f"{shot}-shot, solved": _solved(start, some(shot)) for shot in SHOTS}
    return outcomes, rates


def _solved(start: HeadStart, rows: Batch) -> Outcome:
    """The head solved for memory and new rows."""
    classes = int(start.judged["label"].max()) + 1
    held = concat([start.memory.rows().columns, rows])
    with stopwatch() as seconds:
        head = LogisticRegression().fit({**held, "weight": equal_say(held["label"])}, classes, start.head)
    with torch.no_grad():
        right = head(start.judged["feature"]).argmax(1) == start.judged["label"]
    return {**by_age(right, start.judged["label"], start.head.classes), **seconds}


def _network_start(known: Batch, judged: Batch, seed: int) -> NetworkStart:
    """A perceptron trained on the old classes."""
    classes = int(known["label"].max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MLP(1, known["input"].shape[-1], classes)
    Learner().learn(model, known, Stage(epochs=30, lr=0.1), seed=seed, progress_bar=False, log_every=10**6)
    return NetworkStart(model.eval(), _memory(known, seed), judged)


def _head_start(known: Batch, judged: Batch, seed: int) -> HeadStart:
    """A head solved for the rows of the memory, which are all there are of the old classes."""
    memory = _memory(known, seed)
    classes = int(known["label"].max()) + 1
    return HeadStart(LogisticRegression().fit(memory.rows().columns, classes), memory, judged)


def _memory(rows: Batch, seed: int) -> Store:
    memory = Store(PER_CLASS * (int(rows["label"].max()) + 1), keep=ClassBalanced(Reservoir()), seed=seed)
    memory.add(rows)
    return memory


def _of_classes(rows: Batch, order: Tensor) -> Batch:
    """Rows of some classes, numbered in the order given."""
    number = torch.full((int(rows["label"].max()) + 1,), -1)
    number[order] = torch.arange(len(order))
    index = (number[rows["label"]] >= 0).nonzero().squeeze(1)
    return {**{name: values[index] for name, values in rows.items()}, "label": number[rows["label"][index]]}


def _parted(rows: Batch, n: int) -> tuple[Batch, Batch]:
    """The rows but for the last ``n`` of each class, and these."""
    members = rows_by_class(rows["label"]).values()
    parts = torch.cat([part[:-n] for part in members]), torch.cat([part[-n:] for part in members])
    first, last = ({name: values[index] for name, values in rows.items()} for index in parts)
    return first, last


def _split(rows: Batch, classes: int) -> tuple[Batch, Batch]:
    """The rows of the first ``classes`` classes, and those of the others."""
    parts = rows["label"] < classes, rows["label"] >= classes
    first, others = ({name: values[part] for name, values in rows.items()} for part in parts)
    return first, others


def _digits() -> tuple[Batch, Batch]:
    return digits("train").batch(), digits("test").batch()


def _mini_imagenet(root: Path | None) -> tuple[Batch, Batch]:
    """Features of the base classes, length 1: of the first training images of each, and of all test images."""
    from ..data.archive import root_of

    stream = mini_imagenet_stream(root)
    weights = root_of(root) / "weights_vision" / "mobilenet_v2_imagenet_features.safetensors"
    half = (0.5, 0.5, 0.5)
    model = TorchvisionModel(3, SIZE, 1, "mobilenet_v2", weights, mean=half, std=half)
    base = stream.sessions[0].classes

    def features(split: Split) -> Batch:
        images = stream.train if split == "train" else stream.test
        per_class = PER_CLASS + max(SHOTS) + VALID if split == "train" else len(images)
        index = torch.cat([rows_by_class(images.labels)[int(label)][:per_class] for label in base])
        chosen = images.rows(index)
        found = features_of(model, chosen, size=SIZE, cache=default_cache())
        return {"feature": F.normalize(found, dim=1), "label": chosen.labels}

    return features("train"), features("test")
