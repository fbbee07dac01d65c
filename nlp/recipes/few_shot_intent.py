"""Few-shot intents: BANKING77 and CLINC150 with 5 and 10 texts per intent, all-MiniLM-L6-v2 frozen and fine-tuned.

The published files of the tables that compare CPFT (Zhang et al., Few-Shot Intent Detection via Contrastive
Pre-Training and Fine-Tuning, EMNLP 2021) with others on RoBERTa-base, 125 million parameters; ours has 22 million.
Three methods:

- ``logistic``: logistic regression on frozen vectors, what one would try first.
- ``frozen``: with less penalty, the names of the intents as one more text each, and the layers by `choose_layers`. No
  training.
- ``tuned``: `Tuning` teaches the encoder the intents; the head is that of its cosine head, on the last layer, and of a
  logistic regression on the mean of all layers but the lowest, in the shares that `solved_share` finds in the shots. At
  most two minutes on one core.

One set of settings serves both data sets. They were chosen on the validation texts, which are not read here, and none
of them on the test texts. Published beside them: the fine-tuned classifier for ``logistic``, CPFT for ``frozen``, and
for ``tuned`` the best figures, which come from augmentation by a large language model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ...core.heads import LogisticRegression
from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ...core.reporting.results import replacing
from ..adapter import Recipe, TextAdapter, readable
from ..bundled import bundled_encoder, data_folder
from ..data import TextSet, read_labelled
from ..embeddings import default_cache
from ..encoder import TextEncoder
from ..layers import choose_layers, solved_share, with_mean
from ..tuning import Tuning

SEEDS = 5
TUNING = Tuning()


@dataclass(frozen=True)
class Setting:
    """A cell of the table.

    Attributes:
        data: ``"banking77"`` or ``"clinc150"``.
        shots: texts per intent, 5 or 10.
        method: ``"logistic"``, ``"frozen"`` or ``"tuned"``.
        published: accuracy of the figure beside it, percent.
    """

    data: str
    shots: int
    method: str
    published: float

    @property
    def name(self) -> str:
        """As in ``--only``."""
        return f"{self.data}-{self.shots}-{self.method}"


TABLE = (
    Setting("banking77", 5, "logistic", 74.04),
    Setting("banking77", 5, "frozen", 80.86),
    Setting("banking77", 5, "tuned", 84.41),
    Setting("banking77", 10, "logistic", 84.27),
    Setting("banking77", 10, "frozen", 87.20),
    Setting("banking77", 10, "tuned", 89.67),
    Setting("clinc150", 5, "logistic", 87.99),
    Setting("clinc150", 5, "frozen", 92.34),
    Setting("clinc150", 5, "tuned", 93.20),
    Setting("clinc150", 10, "logistic", 91.55),
    Setting("clinc150", 10, "frozen", 94.18),
    Setting("clinc150", 10, "tuned", 94.75),
)


def learn(method: str, shots: TextSet, encoder: TextEncoder, seed: int) -> TextAdapter:
    """What a method makes of the shots; a text is embedded once by each encoder."""
    names = [readable(name) for name in shots.classes]
    recipe, head = Recipe(seed=seed), None
    with TemporaryDirectory() as cache:
        if method == "frozen":
            encoder = choose_layers(encoder, shots.texts, shots.labels, names, cache=cache)
        if method == "tuned":
            share = solved_share(encoder, shots.texts, shots.labels, names, cache=cache)
            recipe = replace(recipe, solved_share=share)
            labels = torch.cat([shots.labels, torch.arange(len(names))])
            encoder, head = TUNING.tune(encoder, [*shots.texts, *names], labels, seed=seed)
            encoder = with_mean(encoder)
        plain = Recipe(LogisticRegression(), label_texts=False, seed=seed)
        adapter = TextAdapter(encoder, plain if method == "logistic" else recipe)
        adapter.learn(shots, cache, head)
    return adapter


def run(setting: Setting, seed: int, root: Path | None) -> dict[str, float]:
    """One run of a cell: accuracy in percent, seconds to learn with all embedding of the shots, bytes of memory."""
    folder = data_folder(root, setting.data)
    shots = TextSet.of(*read_labelled(folder / f"fsid_train_{setting.shots}.csv"))
    encoder = TextEncoder.load(bundled_encoder())
    began, worked = time.perf_counter(), time.process_time()
    adapter = learn(setting.method, shots, encoder, seed)
    seconds, processor_seconds = time.perf_counter() - began, time.process_time() - worked
    test = TextSet.of(*read_labelled(folder / "fsid_test.csv"), classes=adapter.classes)
    # what a fine-tuned encoder says is of no use to another run
    feature = adapter.encoder.embed(test.texts, None if setting.method == "tuned" else default_cache())
    return {
        "accuracy": 100 * float((adapter.probabilities(feature).argmax(1) == test.labels).double().mean()),
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "memory_bytes": adapter.memory.nbytes,
    }


def reproduce(*, seeds: int | None = None, data: Path | None = None, out: Path, only: Sequence[str] = ()) -> Results:
    """Runs the table and prints ours beside the published figures.

    Runs on one thread, as the limit of two minutes is for one core. A run that is finished is kept in ``out/runs``; a
    reproduction that was stopped goes on from there.

    Args:
        seeds: how many, from 0, for what is trained; 5 by default. The others give the same every time and run once.
        data: folder with ``banking77/`` and ``clinc150/``, in each ``fsid_train_5.csv``, ``fsid_train_10.csv`` and
            ``fsid_test.csv``; by default ``$MEMREPLAY_DATA``.
        out: folder for the results.
        only: cells, such as ``banking77-5-tuned``; or data sets, or methods; all by default.

    Raises:
        ValueError: ``only`` names no cell, or the data is not there.
    """
    known = [word for setting in TABLE for word in (setting.name, setting.data, setting.method)]
    check_asked(only, known)
    chosen = [s for s in TABLE if not only or {s.name, s.data, s.method} & set(only)]
    numbers = range(SEEDS if seeds is None else seeds)
    results = Results("nlp/few-shot-intent", {"encoder": "all-MiniLM-L6-v2", "tuning": vars(TUNING), "threads": 1})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outcomes: dict[Setting, list[dict[str, float]]] = {setting: [] for setting in chosen}
        for seed in numbers:
            for setting, found in outcomes.items():
                if setting.method == "tuned" or not found:  # without training there is no chance
                    found.append(_kept(setting, seed, data, out / "runs"))
    finally:
        torch.set_num_threads(threads)
    for setting, found in outcomes.items():
        results.add(setting.name, "accuracy", [outcome["accuracy"] for outcome in found], setting.published)
        results.add(setting.name, "seconds", [outcome["processor_seconds"] for outcome in found])
        results.memory_bytes = max(results.memory_bytes, int(found[0]["memory_bytes"]))
    results.print()
    print(
        f"accuracy in percent and seconds of one core to learn, mean ± 95 % interval over {len(numbers)} seeds; "
        f"wrote {results.save(out)}"
    )
    return results


def _kept(setting: Setting, seed: int, root: Path | None, folder: Path) -> dict[str, float]:
    """`run`, or what it found earlier with the same settings."""
    path = folder / f"{setting.name}-seed-{seed}.json"
    settings = {**vars(setting), **(vars(TUNING) if setting.method == "tuned" else {})}
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["settings"] == settings:
            outcome: dict[str, float] = kept["outcome"]
            return outcome
    outcome = run(setting, seed, root)
    print(f"{setting.name} seed {seed}: {outcome['accuracy']:.2f} in {outcome['processor_seconds']:.0f} s")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(json.dumps({"settings": settings, "outcome": outcome}))
    return outcome
