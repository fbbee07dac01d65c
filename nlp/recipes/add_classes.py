"""New intents today: five intents with five texts each are added to an adapter that knows the other 72 of BANKING77.

The old texts are gone but for the memory. Accuracy on old and new intents before and after, and the seconds that adding
takes, embedding included, for

- ``adapter``: `TextAdapter.add_classes` on the frozen encoder;
- ``tuned adapter``: the same on an encoder that was fine-tuned on the 72 intents;
- ``logistic``: logistic regression solved anew for all 385 texts, whose vectors are cached;
- ``setfit``: SetFit with its defaults on all 385 texts, one seed, where the package is installed.

Every seed draws other new intents. Accuracy on the new intents by steps and seconds, from the same start with and
without recall, is in the rows ``steps``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ...core.batch import Batch
from ...core.memory import ReplayMemory
from ...core.mixers import CrossEntropy, ReplayCrossEntropy
from ...core.protocols.intervals import paired_interval
from ...core.protocols.seeding import generator_at
from ...core.reporting import Results
from ...core.selection import ClassBalanced, Uniform
from ..adapter import Recipe, TextAdapter, readable
from ..bundled import bundled_encoder, data_folder
from ..data import TextSet, read_labelled
from ..embeddings import default_cache
from ..encoder import TextEncoder
from ..heads import LogisticRegression, TrainedHead
from ..tuning import Tuning

SEEDS = 5
NEW = 5
STEPS = (1, 3, 10, 30, 100)
KNOWN = ("adapter", "tuned adapter", "logistic", "setfit", "steps")


def reproduce(*, seeds: int | None = None, data: Path | None = None, out: Path, only: Sequence[str] = ()) -> Results:
    """Runs the methods and prints their table.

    Args:
        seeds: how many draws of the new intents; 5 by default.
        data: folder with ``banking77/fsid_train_5.csv`` and ``fsid_test.csv``; by default ``$MEMREPLAY_DATA``.
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
    test = TextSet.of(*read_labelled(folder / "fsid_test.csv"), classes=shots.classes)
    encoder = TextEncoder.load(bundled_encoder())
    results = Results("nlp/add-classes", {"encoder": "all-MiniLM-L6-v2", "new": NEW, "shot": 5})
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(SEEDS if seeds is None else seeds):
        order = torch.randperm(len(shots.classes), generator=generator_at(seed, "new intents")).tolist()
        new, old = ([shots.classes[i] for i in sorted(part)] for part in (order[:NEW], order[NEW:]))
        for name in chosen:
            if name == "adapter":
                outcome = added(encoder, None, shots, test, old, new)
            elif name == "tuned adapter":
                outcome = added(encoder, seed, shots, test, old, new)
            elif name == "logistic":
                outcome = solved_anew(encoder, shots, test, old, new)
            elif name == "steps":
                outcome = by_steps(encoder, shots, test, old, new, seed)
            elif seed:
                continue
            else:
                outcome = setfit(shots, test, new)
            found.setdefault(name, []).append(outcome)
            print(f"{name} seed {seed}: " + ", ".join(f"{metric} {value:.2f}" for metric, value in outcome.items()))
    for name, outcomes in found.items():
        for metric in outcomes[0]:
            results.add(name, metric, [outcome[metric] for outcome in outcomes])
    results.print()
    if {"adapter", "logistic"} <= found.keys() and len(found["adapter"]) > 1:
        for metric in ("old after", "new after"):
            ours, theirs = ([outcome[metric] for outcome in found[name]] for name in ("adapter", "logistic"))
            print(f"adapter minus logistic, {metric}: {paired_interval(ours, theirs):.2f} points (95 % interval)")
    print(f"accuracy in percent, mean ± 95 % interval over the draws; wrote {results.save(out)}")
    return results


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


def by_steps(
    encoder: TextEncoder, shots: TextSet, test: TextSet, old: list[str], new: list[str], seed: int
) -> dict[str, float]:
    """Accuracy after so many steps of training, recall on and off, from the head that knows the old intents."""
    cache = default_cache()
    adapter = TextAdapter(encoder)
    adapter.learn(shots.of_classes(old), cache)
    assert adapter.head is not None
    later = shots.of_classes(new)
    rows: Batch = {"feature": encoder.embed(later.texts, cache), "label": later.labels + len(old)}
    asked = encoder.embed(test.texts, cache)
    place = {name: number for number, name in enumerate([*old, *new])}
    truth = torch.tensor([place[name] for name in test.names])
    found = {}
    for recall in (True, False):
        for steps in STEPS:
            mix = CrossEntropy() + ReplayCrossEntropy()
            store = copy.deepcopy(adapter.memory)
            memory = ReplayMemory(store if recall else None, ClassBalanced(Uniform()), mix, replay=32)
            how = TrainedHead(scale=None, steps=steps, lr=0.1)
            began = time.perf_counter()
            head = how.fit(rows, len(place), adapter.head, memory, seed=seed)
            seconds = time.perf_counter() - began
            with torch.no_grad():
                after = head(asked).argmax(1) == truth
            key = f"{steps} steps, recall {'on' if recall else 'off'}"
            found[f"{key}: new"] = percent(after, test, new)
            found[f"{key}: old"] = percent(after, test, old)
            found[f"{key}: seconds"] = seconds
    return found


def setfit(shots: TextSet, test: TextSet, new: list[str]) -> dict[str, float]:
    """SetFit (Tunstall et al., Efficient Few-Shot Learning Without Prompts, 2022) with its defaults."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer

    model = SetFitModel.from_pretrained(bundled_encoder())
    train = Dataset.from_dict({"text": list(shots.texts), "label": shots.labels.tolist()})
    began, worked = time.perf_counter(), time.process_time()
    Trainer(model=model, train_dataset=train).train()
    seconds, processor_seconds = time.perf_counter() - began, time.process_time() - worked
    after = torch.as_tensor(model.predict(list(test.texts))) == test.labels
    old = [name for name in shots.classes if name not in new]
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
