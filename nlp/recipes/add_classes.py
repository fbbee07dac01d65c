"""New intents today: five intents with five texts each are added to an adapter that knows the other 72 of BANKING77.

The old texts are gone but for the memory. Accuracy on old and new intents before and after, and the seconds that adding
takes, embedding included, for

- ``adapter``: `TextAdapter.add_classes` on the frozen encoder;
- ``tuned adapter``: the same on an encoder that was fine-tuned on the 72 intents;
- ``logistic``: logistic regression solved anew for all 385 texts, whose vectors are cached;
- ``setfit``: SetFit on all 385 texts, one seed, where the package is installed. It is stopped after `SETFIT_STEPS`
  steps; its default, an epoch of all pairs of texts, is 9,144 steps and takes hours on a processor.

Every seed draws other new intents. Beside these, accuracy by steps and seconds for a head that is trained on the new
intents step by step (``steps``), from the same start with and without recall, at 1, 2, 5 and 10 shots. Its learning
rates were chosen on validation texts, for other new intents.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ...core.batch import Batch
from ...core.heads import LogisticRegression, TrainedHead
from ...core.memory import ReplayMemory
from ...core.mixers import CrossEntropy, ReplayCrossEntropy
from ...core.protocols.labels import rows_by_class
from ...core.protocols.seeding import generator_at
from ...core.reporting import Results
from ...core.selection import ClassBalanced, Uniform
from ..adapter import Recipe, TextAdapter, readable
from ..bundled import bundled_encoder, data_folder
from ..data import TextSet, read_labelled
from ..embeddings import default_cache
from ..encoder import TextEncoder
from ..layers import with_mean
from ..tuning import Tuning

SEEDS = 5
NEW = 5
SHOTS = (1, 2, 5, 10)
STEPS = (1, 3, 10, 30, 100)
RATES = (0.003, 0.01, 0.03, 0.1)
TUNING_SEED = 100
SETFIT_STEPS = 200
KNOWN = ("adapter", "tuned adapter", "logistic", "setfit", "steps")


def reproduce(*, seeds: int | None = None, data: Path | None = None, out: Path, only: Sequence[str] = ()) -> Results:
    """Runs the methods and prints their table.

    Args:
        seeds: how many draws of the new intents; 5 by default.
        data: folder with ``banking77/fsid_train_5.csv``, ``_train_10``, ``_valid`` and ``_test``; by default
            ``$MEMREPLAY_DATA``.
        out: folder for the results.
        only: methods.

    Raises:
        ValueError: ``only`` names no method, or the data is not there.
    """
    for name in only:
        if name not in KNOWN:
            raise ValueError(f"only is {name!r}; expected one of {', '.join(KNOWN)}")
    chosen = [name for name in KNOWN if not only or name in only]
    if "setfit" in chosen and find_spec("setfit") is None:
        print("setfit is not installed and left out: pip install setfit")
        chosen.remove("setfit")
    folder = data_folder(data, "banking77")
    shots = TextSet.of(*read_labelled(folder / "fsid_train_5.csv"))
    more = TextSet.of(*read_labelled(folder / "fsid_train_10.csv"), classes=shots.classes)
    test = TextSet.of(*read_labelled(folder / "fsid_test.csv"), classes=shots.classes)
    encoder = TextEncoder.load(bundled_encoder())
    results = Results("nlp/add-classes", {"encoder": "all-MiniLM-L6-v2", "new": NEW, "shot": 5})
    rates = {}
    if "steps" in chosen:
        valid = TextSet.of(*read_labelled(folder / "fsid_valid.csv"), classes=shots.classes)
        rates = rehearse(Start(encoder, shots, valid, *drawn(shots, TUNING_SEED)), more)
        results.config["learning_rates"] = {"on" if recall else "off": lr for recall, lr in rates.items()}
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(SEEDS if seeds is None else seeds):
        old, new = drawn(shots, seed)
        outcomes = {}
        if "adapter" in chosen:
            outcomes["adapter"] = added(encoder, None, shots, test, old, new)
        if "tuned adapter" in chosen:
            outcomes["tuned adapter"] = added(encoder, seed, shots, test, old, new)
        if "logistic" in chosen:
            outcomes["logistic"] = solved_anew(encoder, shots, test, old, new)
        if "steps" in chosen:
            outcomes |= by_steps(Start(encoder, shots, test, old, new), more, rates, seed)
        if "setfit" in chosen and seed == 0:
            outcomes["setfit"] = setfit(shots, test, old, new)
            results.config["setfit_steps"] = SETFIT_STEPS
        for name, outcome in outcomes.items():
            found.setdefault(name, []).append(outcome)
            if name in chosen:
                print(f"{name} seed {seed}: " + ", ".join(f"{metric} {v:.2f}" for metric, v in outcome.items()))
    for name, of_seeds in found.items():
        for metric in of_seeds[0]:
            results.add(name, metric, [outcome[metric] for outcome in of_seeds])
    for ours in [name for name in ("adapter", "tuned adapter") if {name, "logistic"} <= found.keys()]:
        for metric in ("old after", "new after"):
            pairs = zip(found[ours], found["logistic"], strict=True)
            results.add(f"{ours} minus logistic", metric, [one[metric] - other[metric] for one, other in pairs])
    results.print()
    print(f"accuracy in percent, mean ± 95 % interval over the draws; wrote {results.save(out)}")
    return results


def drawn(shots: TextSet, seed: int) -> tuple[list[str], list[str]]:
    """The old intents and the new ones."""
    order = torch.randperm(len(shots.classes), generator=generator_at(seed, "new intents")).tolist()
    new, old = ([shots.classes[i] for i in sorted(part)] for part in (order[:NEW], order[NEW:]))
    return old, new


def added(
    encoder: TextEncoder, tuning_seed: int | None, shots: TextSet, test: TextSet, old: list[str], new: list[str]
) -> dict[str, float]:
    """Five intents added to a saved adapter, as a user does it."""
    first, later = shots.of_classes(old), shots.of_classes(new)
    head = None
    if tuning_seed is not None:
        names = [readable(name) for name in first.classes]
        labels = torch.cat([first.labels, torch.arange(len(names))])
        encoder, head = Tuning().tune(encoder, [*first.texts, *names], labels, seed=tuning_seed)
        encoder = with_mean(encoder, Tuning().layers)
    cache = default_cache() if tuning_seed is None else None
    adapter = TextAdapter(encoder, Recipe())
    adapter.learn(first, cache, head)
    feature = encoder.embed(test.texts, cache)
    before = right(adapter, feature, test)
    with TemporaryDirectory() as folder:
        adapter.save(folder)
        adapter = TextAdapter.load(folder, encoder)
        began, worked = time.perf_counter(), time.process_time()
        adapter.add_classes(later.texts, later.names)
        seconds, processor_seconds = time.perf_counter() - began, time.process_time() - worked
    after = right(adapter, feature, test)
    return {
        "old before": percent(before, test, old),
        "old after": percent(after, test, old),
        "new after": percent(after, test, new),
        "seconds": seconds,
        "processor seconds": processor_seconds,
    }


def solved_anew(
    encoder: TextEncoder, shots: TextSet, test: TextSet, old: list[str], new: list[str]
) -> dict[str, float]:
    """Logistic regression on all texts, which must therefore be kept."""
    cache = default_cache()
    feature, asked = encoder.embed(shots.texts, cache), encoder.embed(test.texts, cache)
    began, worked = time.perf_counter(), time.process_time()
    head = LogisticRegression().fit({"feature": feature, "label": shots.labels}, len(shots.classes))
    seconds, processor_seconds = time.perf_counter() - began, time.process_time() - worked
    with torch.no_grad():
        after = head(asked).argmax(1) == test.labels
    return {
        "old after": percent(after, test, old),
        "new after": percent(after, test, new),
        "seconds": seconds,
        "processor seconds": processor_seconds,
    }


class Start:
    """A head that knows the old intents, its memory, and texts to judge by.

    Args:
        encoder: it stays as it is.
        shots: texts of all intents, of which the old ones are learned.
        judged: texts of all intents.
        old: intents.
        new: intents.
    """

    def __init__(self, encoder: TextEncoder, shots: TextSet, judged: TextSet, old: list[str], new: list[str]) -> None:
        self.encoder, self.judged, self.old, self.new = encoder, judged, old, new
        self.adapter = TextAdapter(encoder)
        self.adapter.learn(shots.of_classes(old), default_cache())
        place = {name: number for number, name in enumerate([*old, *new])}
        self.asked = encoder.embed(judged.texts, default_cache())
        self.truth = torch.tensor([place[name] for name in judged.names])

    def rows(self, texts: TextSet, shot: int) -> Batch:
        """The first ``shot`` of the texts of each new intent."""
        later = texts.of_classes(self.new)
        first = torch.cat([rows[:shot] for rows in rows_by_class(later.labels).values()])
        feature = self.encoder.embed(later.texts, default_cache())
        return {"feature": feature[first], "label": later.labels[first] + len(self.old)}

    def trained(self, rows: Batch, steps: int, lr: float, recall: bool, seed: int) -> dict[str, float]:
        """Accuracy after some steps on the new rows."""
        mix = CrossEntropy() + ReplayCrossEntropy()
        store = copy.deepcopy(self.adapter.memory) if recall else None
        memory = ReplayMemory(store, ClassBalanced(Uniform()), mix, replay=32)
        how = TrainedHead(scale=None, steps=steps, lr=lr)
        began, worked = time.perf_counter(), time.process_time()
        head = how.fit(rows, len(self.old) + len(self.new), self.adapter.head, memory, seed=seed)
        seconds, processor_seconds = time.perf_counter() - began, time.process_time() - worked
        with torch.no_grad():
            after = head(self.asked).argmax(1) == self.truth
        return {
            "old after": percent(after, self.judged, self.old),
            "new after": percent(after, self.judged, self.new),
            "seconds": seconds,
            "processor seconds": processor_seconds,
        }


def rehearse(start: Start, texts: TextSet) -> dict[bool, float]:
    """The learning rate with the best mean of old and new accuracy over all numbers of steps, with recall and without,
    at 5 shots."""
    rows = start.rows(texts, 5)

    def score(recall: bool, lr: float) -> float:
        outcomes = [start.trained(rows, steps, lr, recall, TUNING_SEED) for steps in STEPS]
        return sum(outcome["old after"] + outcome["new after"] for outcome in outcomes)

    return {recall: max(RATES, key=lambda lr: score(recall, lr)) for recall in (True, False)}


def by_steps(start: Start, texts: TextSet, rates: Mapping[bool, float], seed: int) -> dict[str, dict[str, float]]:
    """The outcome after every number of steps, at every number of shots, recall on and off."""
    return {
        f"{shot}-shot, recall {'on' if recall else 'off'}, {steps} steps": start.trained(
            start.rows(texts, shot), steps, rates[recall], recall, seed
        )
        for shot in SHOTS
        for recall in (True, False)
        for steps in STEPS
    }


def setfit(shots: TextSet, test: TextSet, old: list[str], new: list[str]) -> dict[str, float]:
    """SetFit (Tunstall et al., Efficient Few-Shot Learning Without Prompts, 2022) with its defaults, but that it is
    stopped."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(bundled_encoder(), device="cpu")
    train = Dataset.from_dict({"text": list(shots.texts), "label": shots.labels.tolist()})
    with TemporaryDirectory() as folder:
        asked = TrainingArguments(output_dir=folder, max_steps=SETFIT_STEPS, report_to="none", save_strategy="no")
        began, worked = time.perf_counter(), time.process_time()
        Trainer(model=model, args=asked, train_dataset=train).train()
        seconds, processor_seconds = time.perf_counter() - began, time.process_time() - worked
    after = torch.as_tensor(model.predict(list(test.texts))) == test.labels
    return {
        "old after": percent(after, test, old),
        "new after": percent(after, test, new),
        "seconds": seconds,
        "processor seconds": processor_seconds,
    }


def right(adapter: TextAdapter, feature: torch.Tensor, test: TextSet) -> torch.Tensor:
    """Whether each test text is given its intent, bool (N,)."""
    place = adapter.probabilities(feature).argmax(1).tolist()
    return torch.tensor([adapter.classes[i] == name for i, name in zip(place, test.names, strict=True)])


def percent(right: torch.Tensor, test: TextSet, names: Sequence[str]) -> float:
    """Accuracy on the texts of some intents."""
    chosen = torch.tensor([name in set(names) for name in test.names])
    return 100 * float(right[chosen].double().mean())
