"""New intents today: five intents with five texts each are added to an adapter that knows the other 72 of BANKING77.

The old texts are gone but for the memory. Accuracy on old and new intents before and after, and the seconds that adding
takes, embedding included, for

- ``adapter``: `TextAdapter.add_classes` on the frozen encoder;
- ``tuned adapter``: the same on an encoder that was fine-tuned on the 72 intents;
- ``logistic``: logistic regression solved anew for all 385 texts, whose vectors are cached;
- ``setfit``: SetFit on all 385 texts, one seed, where the package is installed. It is stopped after `SETFIT_STEPS`
  steps; its default, an epoch of all pairs of texts, is 9,144 steps: about three hours, at the second of one core that
  a step takes. What it knows along the way is in ``docs/results/add-classes-setfit.md``; after the first thousand steps
  it did not get better.

Every seed draws other new intents. Beside these, accuracy by steps and seconds for a head that is trained on the new
intents step by step (``steps``), from the same start with and without recall, at 1, 2, 5 and 10 shots. Its learning
rates were chosen on validation texts, for other new intents.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ...core.batch import Batch
from ...core.heads import LogisticRegression
from ...core.incremental.adaptation import HeadStart, by_steps, first_shots, rehearse, stopwatch
from ...core.protocols.seeding import generator_at
from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ..adapter import Recipe, TextAdapter, readable
from ..bundled import bundled_encoder, data_folder
from ..data import TextSet, read_labelled
from ..embeddings import default_cache
from ..encoder import TextEncoder
from ..layers import with_mean
from ..tuning import Tuning

SEEDS = 5
NEW = 5
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
    check_asked(only, KNOWN)
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
        start = Start(encoder, shots, valid, *drawn(shots, TUNING_SEED))
        rates = rehearse(start, start.rows(more, 5), seed=TUNING_SEED)
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
            start = Start(encoder, shots, test, old, new)
            outcomes |= by_steps(start, partial(start.rows, more), rates, seed=seed)
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
        with stopwatch() as passed:
            adapter.add_classes(later.texts, later.names)
    after = right(adapter, feature, test)
    return {
        "old before": percent(before, test, old),
        "old after": percent(after, test, old),
        "new after": percent(after, test, new),
        **passed,
    }


def solved_anew(
    encoder: TextEncoder, shots: TextSet, test: TextSet, old: list[str], new: list[str]
) -> dict[str, float]:
    """Logistic regression on all texts, which must therefore be kept."""
    cache = default_cache()
    feature, asked = encoder.embed(shots.texts, cache), encoder.embed(test.texts, cache)
    with stopwatch() as passed:
        head = LogisticRegression().fit({"feature": feature, "label": shots.labels}, len(shots.classes))
    with torch.no_grad():
        after = head(asked).argmax(1) == test.labels
    return {
        "old after": percent(after, test, old),
        "new after": percent(after, test, new),
        **passed,
    }


class Start(HeadStart):
    """A head that knows the old intents, its memory, and texts to judge by.

    Args:
        encoder: it stays as it is.
        shots: texts of all intents, of which the old ones are learned.
        judged: texts of all intents.
        old: intents.
        new: intents.
    """

    def __init__(self, encoder: TextEncoder, shots: TextSet, judged: TextSet, old: list[str], new: list[str]) -> None:
        adapter = TextAdapter(encoder)
        adapter.learn(shots.of_classes(old), default_cache())
        assert adapter.head is not None
        asked = judged.of_classes([*old, *new])
        super().__init__(
            adapter.head,
            adapter.memory,
            {"feature": encoder.embed(asked.texts, default_cache()), "label": asked.labels},
        )
        self.encoder, self.new = encoder, new

    def rows(self, texts: TextSet, shot: int) -> Batch:
        """The first ``shot`` of the texts of each new intent."""
        later = texts.of_classes(self.new)
        feature = self.encoder.embed(later.texts, default_cache())
        return first_shots({"feature": feature, "label": later.labels + self.head.classes}, shot)


def setfit(shots: TextSet, test: TextSet, old: list[str], new: list[str]) -> dict[str, float]:
    """SetFit (Tunstall et al., Efficient Few-Shot Learning Without Prompts, 2022) with its defaults, but that it is
    stopped."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(bundled_encoder(), device="cpu")
    train = Dataset.from_dict({"text": list(shots.texts), "label": shots.labels.tolist()})
    with TemporaryDirectory() as folder:
        asked = TrainingArguments(output_dir=folder, max_steps=SETFIT_STEPS, report_to="none", save_strategy="no")
        with stopwatch() as passed:
            Trainer(model=model, args=asked, train_dataset=train).train()
    after = torch.as_tensor(model.predict(list(test.texts))) == test.labels
    return {
        "old after": percent(after, test, old),
        "new after": percent(after, test, new),
        **passed,
    }


def right(adapter: TextAdapter, feature: torch.Tensor, test: TextSet) -> torch.Tensor:
    """Whether each test text is given its intent, bool (N,)."""
    place = adapter.probabilities(feature).argmax(1).tolist()
    return torch.tensor([adapter.classes[i] == name for i, name in zip(place, test.names, strict=True)])


def percent(right: torch.Tensor, test: TextSet, names: Sequence[str]) -> float:
    """Accuracy on the texts of some intents."""
    chosen = torch.tensor([name in set(names) for name in test.names])
    return 100 * float(right[chosen].double().mean())
