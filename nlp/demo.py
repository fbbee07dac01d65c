"""Demo: new intents arrive in sessions, with and without a memory, in about a minute; then one prediction explained.

Fourteen intents, fifteen texts of each to learn from and ten to be judged on. Eight are known at first, then two
sessions of three new ones follow, five shots each. Every method learns on the same frozen vectors, takes the same steps
and has its own learning rate, chosen in rehearsals: sessions of the same kind carved out of the texts of the first
eight. The texts to be judged on are looked at once, at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from ..core.batch import Batch, take
from ..core.heads import LogisticRegression, TrainedHead
from ..core.incremental import Method, Solved, classic, der_pp, er, learn_sessions, none
from ..core.protocols.intervals import mean_interval, paired_interval
from ..core.protocols.labels import rows_by_class
from ..core.protocols.metrics import AccuracyMatrix, harmonic_mean
from ..core.protocols.seeding import generator_at
from ..core.protocols.sessions import Sessions
from ..core.reporting import Results
from ..core.reporting.cases import save_cases
from ..core.reporting.progress import waited
from .adapter import TextAdapter, readable
from .bundled import bundled_encoder, intents
from .encoder import TextEncoder

SEEDS = range(5)
REHEARSAL_SEEDS = range(100, 102)
LEARNING_RATES = (0.001, 0.003, 0.01, 0.03)
CAPACITY = 70
STEPS = 60
METRICS = ("base", "novel", "harmonic", "forgetting")

METHODS: dict[str, Callable[[float, int], Method]] = {
    "none": lambda lr, seed: none(TrainedHead(steps=STEPS, lr=lr), seed),
    "classic": lambda lr, seed: classic(TrainedHead(steps=STEPS, lr=lr), CAPACITY, seed),
    "er": lambda lr, seed: er(TrainedHead(steps=STEPS, lr=lr), CAPACITY, seed),
    "der++": lambda lr, seed: der_pp(TrainedHead(steps=STEPS, lr=lr), CAPACITY, seed=seed),
    "adapter": lambda lr, seed: Solved(LogisticRegression(), CAPACITY, seed=seed),
    "joint (all data kept)": lambda lr, seed: Solved(LogisticRegression(), None, seed=seed),
}
TUNED = ("none", "classic", "er", "der++")
"""The methods that have a learning rate."""


def split(labels: torch.Tensor, first: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers of ``first`` rows of every class, and of the rest of them."""
    kept, rest = [], []
    for name, rows in rows_by_class(labels).items():
        order = rows[torch.randperm(len(rows), generator=generator_at(seed, "split", name))]
        kept.append(order[:first])
        rest.append(order[first:])
    return torch.cat(kept), torch.cat(rest)


def figures(matrix: AccuracyMatrix) -> dict[str, float]:
    """Accuracy on the classes that were first and on those that came later, their harmonic mean, forgetting."""
    base, *novel = matrix.values[-1].tolist()
    mean = sum(novel) / len(novel)
    return {"base": base, "novel": mean, "harmonic": harmonic_mean(base, mean), "forgetting": matrix.forgetting}


def rehearse(rows: Batch, named: torch.Tensor, seed: int) -> dict[str, list[float]]:
    """Harmonic accuracy of every method for every learning rate, on the texts of the first eight intents alone: four
    of them are known, the others come two at a time, and a third of the texts judges.
    """
    known = Sessions(rows["label"], 8, 3, class_order="shuffled", seed=seed)[0].classes
    own = torch.isin(rows["label"], known).nonzero().squeeze(1)
    place = {int(name): number for number, name in enumerate(known)}
    labels = torch.tensor([place[name] for name in rows["label"][own].tolist()])
    kept, judged = split(labels, 10, seed)
    carved = {"feature": rows["feature"][own], "label": labels}
    sessions = Sessions(labels[kept], 4, 2, class_order="shuffled", seed=seed)
    parts = take(carved, kept), take(carved, judged)
    return {
        name: [
            figures(learn_sessions(METHODS[name](lr, seed), sessions, *parts, named[known]))["harmonic"]
            for lr in LEARNING_RATES
        ]
        for name in TUNED
    }


def measure(
    rows: Batch, test: Batch, named: torch.Tensor, rates: dict[str, float], seed: int
) -> dict[str, dict[str, float]]:
    """The figures of every method, and the bytes of its memory."""
    sessions = Sessions(rows["label"], 8, 3, class_order="shuffled", seed=seed)
    found = {}
    for name, make in METHODS.items():
        method = make(rates.get(name, 0.0), seed)
        began = time.perf_counter()
        matrix = learn_sessions(method, sessions, rows, test, named)
        found[name] = {**figures(matrix), "bytes": float(method.nbytes), "seconds": time.perf_counter() - began}
        for session in range(len(matrix.values)):
            so_far = AccuracyMatrix(matrix.values[: session + 1, : session + 1])
            known = {"base": float(matrix.values[session, 0])} if session == 0 else figures(so_far)
            found[name] |= {f"{metric} after {session}": known[metric] for metric in known}
    return found


def demo(out: Path) -> None:
    """Rehearses, measures, prints the table and a prediction, and writes ``results.json`` to ``out``."""
    data = intents()
    encoder = TextEncoder.load(bundled_encoder(), device="cpu")
    feature = encoder.embed(data.texts)
    named = encoder.embed([readable(name) for name in data.classes])
    everything = {"feature": feature, "label": data.labels}
    learned, judged = split(data.labels, 15, 0)
    rows, test = take(everything, learned), take(everything, judged)
    print("8 intents are learned, then 2 x 3 new ones from 5 texts each. What is still known?\n")
    with ProcessPoolExecutor(
        2, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        rehearsals = [pool.submit(rehearse, rows, named, seed) for seed in REHEARSAL_SEEDS]
        tried = waited(rehearsals, "rehearsing")
        rates = {name: _best(name, tried) for name in TUNED}
        print("learning rates chosen in rehearsal: " + ", ".join(f"{name} {lr:g}" for name, lr in rates.items()))
        runs = [pool.submit(measure, rows, test, named, rates, seed) for seed in SEEDS]
        measured = waited(runs, "measuring")
    results = Results("nlp/demo", {"learning_rates": rates, "capacity": CAPACITY, "steps": STEPS})
    harmonic = {name: [of_seed[name]["harmonic"] for of_seed in measured] for name in METHODS}
    for name in METHODS:
        for metric in METRICS:
            results.add(name, metric, [of_seed[name][metric] for of_seed in measured])
        for session in range(3):
            for metric in METRICS[:3] if session else METRICS[:1]:
                values = [of_seed[name][f"{metric} after {session}"] for of_seed in measured]
                results.add_point(name, metric, "session", session, values)
        results.add_cost(name, *([of_seed[name][what] for of_seed in measured] for what in ("seconds", "bytes")))
    results.memory_bytes = max(int(of_seed[name]["bytes"]) for of_seed in measured for name in (*TUNED, "adapter"))
    results.print(decimals=1)
    best = max(("classic", "er", "der++", "adapter"), key=lambda name: mean_interval(harmonic[name]).mean)
    gain = paired_interval(harmonic[best], harmonic["none"])
    print(f"\n{best} minus no memory, harmonic accuracy, same seeds: {gain:.1f} points (95 % interval)")
    adapter = TextAdapter(encoder)
    adapter.learn(data.rows(learned))
    (asked,) = adapter.predict(["my bank card is nowhere to be found"])
    print(f'\n"{asked.text}" is {asked.label} ({100 * asked.probability:.0f} %), because of')
    for memory in asked.memories:
        print(f'  {memory.similarity:.2f}  "{memory.text}" ({memory.label})')
    adapter.save(out)
    save_cases(adapter.explained(data.rows(judged)), out)
    path = results.save(out)
    print(f"\nfigures are percent, mean ± 95 % interval over {len(SEEDS)} seeds; wrote {path}")


def _best(name: str, rehearsals: Sequence[dict[str, list[float]]]) -> float:
    means = [sum(column) for column in zip(*(rehearsal[name] for rehearsal in rehearsals), strict=True)]
    return LEARNING_RATES[means.index(max(means))]
