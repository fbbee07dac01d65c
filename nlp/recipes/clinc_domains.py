"""CLINC150 by domain: ten domains of fifteen intents, the first two with all their texts, the others with five shots.

Class-incremental few-shot intent classification on frozen vectors: no memory, experience replay, DER++, Gaussian
replay, `classic`, ours, and joint training on the same texts. All memories of rows hold 750, five of each intent at the
end. Learning rates are chosen on the validation texts, with a seed of their own; the test texts are looked at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...core.batch import Batch
from ...core.heads import LogisticRegression, TrainedHead
from ...core.incremental import GaussianReplay, Method, Solved, classic, der_pp, er, learn_sessions, none
from ...core.protocols.intervals import paired_interval
from ...core.protocols.metrics import AccuracyMatrix
from ...core.protocols.sessions import Sessions
from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ..adapter import readable
from ..bundled import bundled_encoder, data_folder
from ..data import TextSet
from ..embeddings import default_cache
from ..encoder import TextEncoder

SEEDS = 5
TUNING_SEED = 100
CAPACITY = 750
SHOT = 5
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)

Make = Callable[[float, int], Method]
STEPWISE: dict[str, Make] = {
    "none": lambda lr, seed: none(TrainedHead(lr=lr), seed),
    "er": lambda lr, seed: er(TrainedHead(lr=lr), CAPACITY, seed),
    "der++": lambda lr, seed: der_pp(TrainedHead(lr=lr), CAPACITY, seed=seed),
    "classic": lambda lr, seed: classic(TrainedHead(lr=lr), CAPACITY, seed),
}
SOLVED: dict[str, Callable[[int], Method]] = {
    "gaussian": lambda seed: GaussianReplay(LogisticRegression(), seed=seed),
    "ours": lambda seed: Solved(LogisticRegression(), CAPACITY, seed=seed),
    "joint": lambda seed: Solved(LogisticRegression(), None, seed=seed),
}


def stream(labels: Tensor, domains: Sequence[Sequence[int]], seed: int) -> Sessions:
    """The first two domains with all their texts, then one after the other with a few shots."""
    base = [*domains[0], *domains[1]]
    order = [label for domain in domains[2:] for label in domain]
    return Sessions(labels, base, way=15, shot=SHOT, class_order=order, seed=seed)


def reproduce(*, seeds: int | None = None, data: Path | None = None, out: Path, only: Sequence[str] = ()) -> Results:
    """Runs the methods over the sessions and prints their table.

    Args:
        seeds: how many draws of the shots; 5 by default.
        data: folder with ``clinc150/data_full.json`` and ``domains.json``; by default ``$MEMREPLAY_DATA``.
        out: folder for the results.
        only: methods.

    Raises:
        ValueError: ``only`` names no method, or the data is not there.
    """
    known = [*STEPWISE, *SOLVED]
    check_asked(only, known)
    chosen = [name for name in known if not only or name in only]
    folder = data_folder(data, "clinc150")
    full = json.loads((folder / "data_full.json").read_text("utf-8"))
    domains = json.loads((folder / "domains.json").read_text("utf-8"))
    classes = [intent for domain in domains.values() for intent in domain]
    encoder = TextEncoder.load(bundled_encoder())
    cache = default_cache()
    parts = {part: _batch(full[part], classes, encoder, cache) for part in ("train", "val", "test")}
    named = encoder.embed([readable(name) for name in classes], cache)
    numbered = [[classes.index(intent) for intent in domain] for domain in domains.values()]

    def run(method: Method, part: str, seed: int) -> AccuracyMatrix:
        sessions = stream(parts["train"]["label"], numbered, seed)
        return learn_sessions(method, sessions, parts["train"], parts[part], named)

    results = Results("nlp/clinc-domains", {"capacity": CAPACITY, "shot": SHOT, "encoder": "all-MiniLM-L6-v2"})
    rates = {}
    for name in (name for name in chosen if name in STEPWISE):
        tried = {lr: run(STEPWISE[name](lr, TUNING_SEED), "val", TUNING_SEED) for lr in RATES}
        rates[name] = max(tried, key=lambda lr: tried[lr].average_incremental_accuracy)
    results.config["learning_rates"] = rates
    last: dict[str, list[float]] = {}
    for name in chosen:
        matrices = []
        for seed in range(SEEDS if seeds is None else seeds):
            method = STEPWISE[name](rates[name], seed) if name in STEPWISE else SOLVED[name](seed)
            matrices.append(run(method, "test", seed))
            if name != "joint":
                results.memory_bytes = max(results.memory_bytes, method.nbytes)
        last[name] = [matrix.final_accuracy for matrix in matrices]
        results.add(name, "average", [matrix.average_incremental_accuracy for matrix in matrices])
        results.add(name, "last", last[name])
        results.add(name, "forgetting", [matrix.forgetting for matrix in matrices])
    results.print()
    if {"ours", "joint"} <= last.keys() and len(last["ours"]) > 1:
        gap = paired_interval(last["ours"], last["joint"])
        print(f"ours minus joint training, last accuracy: {gap:.2f} points (95 % interval)")
    print(f"accuracy in percent, mean ± 95 % interval over the draws of the shots; wrote {results.save(out)}")
    return results


def _batch(pairs: Sequence[tuple[str, str]], classes: Sequence[str], encoder: TextEncoder, cache: Path) -> Batch:
    texts = TextSet.of([text for text, _ in pairs], [name for _, name in pairs], classes, "clinc150")
    return {"feature": encoder.embed(texts.texts, cache), "label": torch.clone(texts.labels)}
