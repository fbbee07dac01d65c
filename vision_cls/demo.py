"""Demo: few-shot sessions on scikit-learn's handwritten digits, with and without a memory, in about a minute.

Six base digits, then two sessions of two new digits, five shots each. Every method starts from the same base network,
takes the same steps in the new sessions, and has its own learning rate, chosen in rehearsals: sessions of the same
kind carved out of the base training images. The test images are looked at once, at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from ..core.protocols.intervals import mean_interval, paired_interval
from ..core.protocols.sessions import Sessions
from ..core.reporting import Results, Trace
from ..core.reporting.cases import save_cases
from ..core.reporting.progress import waited
from ..core.selection import ClassBalanced, Uniform
from ..core.stores import Store
from ..core.stores.keeping import Reservoir
from . import methods
from .adapter import Recipe
from .backbones import MLP, Classifier
from .data import ImageSet, digits, stratified_split
from .incremental import Outcome
from .learner import Learner, Stage
from .train import adapted

SEEDS = range(5)
REHEARSAL_SEEDS = range(100, 106)
LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
FIRST = Stage(epochs=30, lr=0.1)
LATER = Stage(steps=100, batch_size=10)
CAPACITY = 60
REPLAY = 32
KEEP, DRAW = ClassBalanced(Reservoir()), ClassBalanced(Uniform())
METRICS = ("base", "novel", "harmonic", "forgetting")


def er(capacity: int = CAPACITY) -> Learner:
    """Experience replay, the same number of rows of every class kept and recalled."""
    return methods.er(capacity, REPLAY, keep=KEEP, draw=DRAW, when="after_session")


def er_ace() -> Learner:
    """ER with an asymmetric loss on the new rows."""
    # new classes meet the old ones in the replayed rows only, so they must be among these
    return methods.er_ace(CAPACITY, REPLAY, keep=KEEP, draw=DRAW, when="before_session")


def derpp() -> Learner:
    """Replay of labels and of logits."""
    return methods.der_pp(CAPACITY, REPLAY, 0.2, 1.0, keep=KEEP, draw=DRAW, when="after_session")


def classic() -> Learner:
    """Kept by gradient norm, recalled by similarity, the same loss on memory as on data."""
    return methods.classic(CAPACITY, REPLAY, when="after_session")


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: in the table.
        make: makes a learner with an empty memory.
        shuffled: whether the labels in the memory are shuffled after every session: a control.
        tuned_as: the method whose learning rate it takes; by default it has its own.
    """

    name: str
    make: Callable[[], Learner]
    shuffled: bool = False
    tuned_as: str | None = None


METHODS = (
    Method("none", Learner),
    Method("classic", classic),
    Method("er", er),
    Method("er-ace", er_ace),
    Method("der++", derpp),
    Method("er, labels shuffled", er, shuffled=True, tuned_as="er"),
    Method("joint (all data kept)", lambda: er(10_000)),
)


@dataclass
class Start:
    """A network that has learned the base classes, and what it learned them from."""

    model: Classifier
    sessions: Sessions
    train: ImageSet
    test: ImageSet


def base_network(train: ImageSet, test: ImageSet, base: int, seed: int) -> Start:
    """Teaches a fresh network the base classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MLP(1, 8, 10)
    sessions = Sessions(train.labels, base, way=2, shot=5, class_order="shuffled", seed=seed)
    Learner().learn(model, train.batch(sessions[0].train), FIRST, seed=seed, progress_bar=False)
    return Start(model, sessions, train, test)


def run(method: Method, start: Start, lr: float, seed: int) -> Outcome:
    """The sessions of one method, from ``start``."""
    learner = method.make()
    model = copy.deepcopy(start.model)
    outcome = Outcome()
    for number, session in enumerate(start.sessions):
        rows = start.train.batch(session.train)
        # the base classes are learned already: in session 0 the memory only takes them in
        stage = replace(LATER, lr=lr, steps=LATER.steps if number else 0)
        outcome.seconds.append(learner.learn(model, rows, stage, seed=seed, number=number, progress_bar=False).seconds)
        if method.shuffled and learner.memory is not None:
            _shuffle_labels(learner.memory.source, seed)
        outcome.observe(model, start.sessions, number, start.test)
    if learner.memory is not None:
        outcome.memory_bytes = int(getattr(learner.memory.source, "nbytes", 0))
    return outcome


def _shuffle_labels(store: object, seed: int) -> None:
    assert isinstance(store, Store)
    rows = store.rows()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    store.update(rows, label=rows["label"][order])


def rehearse(seed: int) -> dict[str, list[float]]:
    """Harmonic accuracy of every method for every learning rate, on sessions carved out of the base training images:
    four of the six digits are base, the other two are new, and images held out judge.
    """
    train = digits("train")
    order = Sessions(train.labels, 6, 2, class_order="shuffled", seed=seed).class_order[:6]
    known = train.of(order.tolist())
    parts = stratified_split(known.labels, test_fraction=0.3, generator=torch.Generator().manual_seed(seed))
    start = base_network(known.rows(parts["train"]), known.rows(parts["test"]), 4, seed)
    return {
        method.name: [run(method, start, lr, seed).last.harmonic for lr in LEARNING_RATES]
        for method in METHODS
        if method.tuned_as is None
    }


def measure(seed: int, rates: dict[str, float]) -> dict[str, tuple[Outcome, float]]:
    """The outcome of every method, and its forgetting, judged on the test images."""
    start = base_network(digits("train"), digits("test"), 6, seed)
    found = {}
    for method in METHODS:
        outcome = run(method, start, rates[method.tuned_as or method.name], seed)
        found[method.name] = (outcome, outcome.matrix.forgetting)
    return found


def demo(out: Path) -> None:
    """Rehearses, measures, prints the table, and writes ``results.json`` and ``figure.png`` to ``out``."""
    results = Results("vision_cls/demo", _settings())
    print("6 digits are learned, then 2 x 2 new ones from 5 images each. What is still known?\n")
    with ProcessPoolExecutor(
        2, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        rehearsals = waited([pool.submit(rehearse, seed) for seed in REHEARSAL_SEEDS], "rehearsing")
        rates = {name: _best(name, rehearsals) for name in rehearsals[0]}
        print("learning rates chosen in rehearsal: " + ", ".join(f"{name} {lr:g}" for name, lr in rates.items()))
        measured = waited([pool.submit(measure, seed, rates) for seed in SEEDS], "measuring")
    results.config["learning_rates"] = rates
    harmonic = {}
    for method in METHODS:
        outcomes = [of_seed[method.name][0] for of_seed in measured]
        for metric in ("base", "novel", "harmonic"):
            results.add(method.name, metric, [getattr(outcome.last, metric) for outcome in outcomes])
        results.add(method.name, "forgetting", [of_seed[method.name][1] for of_seed in measured])
        harmonic[method.name] = [outcome.last.harmonic for outcome in outcomes]
        add_sessions(results, method.name, outcomes)
    results.memory_bytes = max(of_seed["er"][0].memory_bytes for of_seed in measured)
    results.print(decimals=1)
    best = max(("classic", "er", "er-ace", "der++"), key=lambda name: mean_interval(harmonic[name]).mean)
    gain = paired_interval(harmonic[best], harmonic["none"])
    print(f"\n{best} minus no memory, harmonic accuracy, same seeds: {gain:.1f} points (95 % interval)")
    figure(results, out / "figure.png")
    remember(rates["er"], out)
    path = results.save(out)
    print(f"figures are percent, mean ± 95 % interval over {len(SEEDS)} seeds; wrote {path} and {out / 'figure.png'}")


def add_sessions(results: Results, name: str, outcomes: Sequence[Outcome]) -> None:
    """Adds what was known after each session, one outcome per seed, and what it took."""
    for number in range(len(outcomes[0].by_session)):
        for metric in ("base", "novel", "harmonic") if number else ("base",):
            values = [getattr(outcome.by_session[number], metric) for outcome in outcomes]
            results.add_point(name, metric, "session", number, values)
    seconds = [sum(outcome.seconds) for outcome in outcomes]
    results.add_cost(name, seconds, [outcome.memory_bytes for outcome in outcomes])


def remember(lr: float, out: Path) -> None:
    """Saves to ``out`` an adapter with what ER remembers of the first seed, predictions with their evidence, and what
    was replayed; for the report.
    """
    start = base_network(digits("train"), digits("test"), 6, SEEDS[0])
    method, replayed = next(method for method in METHODS if method.name == "er"), Trace()
    learner = method.make()
    assert learner.memory is not None
    learner.memory.trace = replayed
    model = copy.deepcopy(start.model)
    for number, session in enumerate(start.sessions):
        stage = replace(LATER, lr=lr, steps=LATER.steps if number else 0)
        rows = start.train.batch(session.train)
        learner.learn(model, rows, stage, seed=SEEDS[0], number=number, progress_bar=False)
    adapter = adapted(model, model, Recipe(), start.sessions, start.train)
    adapter.save(out)
    learner.memory.save(out / "memory")
    save_cases(adapter.explained(start.test), out)


def _best(name: str, rehearsals: Sequence[dict[str, list[float]]]) -> float:
    means = [sum(column) for column in zip(*(rehearsal[name] for rehearsal in rehearsals), strict=True)]
    return LEARNING_RATES[means.index(max(means))]


def _settings() -> dict[str, object]:
    return {
        "seeds": list(SEEDS),
        "rehearsal_seeds": list(REHEARSAL_SEEDS),
        "capacity": CAPACITY,
        "replay": REPLAY,
        "steps_per_session": LATER.steps,
    }


def figure(results: Results, path: Path) -> None:
    """Base, novel and harmonic accuracy of every method, as bars with their intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [method.name for method in METHODS]
    # colours that can be told apart by everyone (Okabe and Ito)
    colours = {"base": "#0072B2", "novel": "#E69F00", "harmonic": "#009E73"}
    drawing, axes = pyplot.subplots(figsize=(9, 3.6), layout="constrained")
    for offset, (metric, colour) in enumerate(colours.items()):
        rows = [row for row in results.rows if row.metric == metric]
        places = [place + 0.27 * (offset - 1) for place in range(len(rows))]
        axes.bar(
            places, [row.ours for row in rows], 0.25, yerr=[row.ci95 or 0 for row in rows], color=colour, label=metric
        )
    axes.set_xticks(range(len(names)), [name.replace(", ", ",\n").replace(" (", "\n(") for name in names])
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 100)
    axes.set_title("After two sessions of two new digits, five shots each", loc="left")
    axes.legend(ncols=3, loc="upper center", frameon=False, bbox_to_anchor=(0.5, -0.2))
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=150)
    pyplot.close(drawing)
