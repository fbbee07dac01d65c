"""Session table: methods on frozen features, run over sessions and set beside each other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.fingerprint import fingerprint
from ..core.incremental import learn_sessions
from ..core.protocols.seeding import generator_at
from ..core.protocols.sessions import Sessions
from ..core.reporting import Results
from ..core.reporting.results import replacing
from .rehearsal import Rehearsal, chosen, predicted
from .session_methods import CANDIDATES

Setting = Mapping[str, Any]
REHEARSALS = 2
REHEARSED = 200
"""Rows of each class that take part in a rehearsal."""


def table(
    results: Results,
    names: Sequence[str],
    sessions: Sessions,
    train: Batch,
    test: Batch,
    seeds: int,
    folder: Path,
    prefix: str = "",
    processes: int = 1,
) -> None:
    """Chooses settings, runs the methods and adds their figures to the results.

    Args:
        results: get the rows, and in their config the settings, the accuracy after every session and, if ``ours`` is
            among the names, how far it is before the others.
        names: of candidates.
        sessions: over the rows of ``train``; all later ones have the same shots.
        train: ``feature`` and ``label``.
        test: likewise.
        seeds: of the candidates that have chance in them.
        folder: where finished runs are kept.
        prefix: of the names in the results.
        processes: candidates at a time, one thread each; 1: one after the other, here.
    """
    base = {name: values[sessions[0].train] for name, values in train.items()}
    novel = 1 - len(sessions[0].classes) / len(sessions.class_order)
    shot = len(sessions[1].train) // len(sessions[1].classes)
    rehearsals = [Rehearsal.of(base, novel, shot, seed, REHEARSED) for seed in range(REHEARSALS)]
    work = partial(
        _outcomes, rehearsals=rehearsals, sessions=sessions, train=train, test=test, seeds=seeds, folder=folder
    )
    label = sessions.relabel(test["label"])
    right = {}
    for name, (setting, found) in zip(names, _each(work, names, processes), strict=True):
        for metric in found[0]["figures"]:
            results.add(prefix + name, metric, [one["figures"][metric] for one in found])
        right[name] = torch.tensor(found[0]["predicted"]) == label
        results.memory_bytes = max(results.memory_bytes, int(1e6 * found[0]["figures"]["megabytes"]))
        results.config.setdefault("settings", {})[prefix + name] = setting
        results.config.setdefault("after each session", {})[prefix + name] = found[0]["by session"]
        print(f"{name:<16}" + "  ".join(f"{metric} {value:.2f}" for metric, value in found[0]["figures"].items()))
    is_base = torch.isin(test["label"], sessions[0].classes)
    for name in right if "ours" in right else ():
        if name != "ours":
            low, high = bootstrapped(right["ours"], right[name], is_base)
            ahead = results.config.setdefault("ours minus, harmonic, 95 % by bootstrap over test images", {})
            ahead[prefix + name] = (round(low, 2), round(high, 2))
            print(f"ours minus {name}, harmonic: {low:.2f} to {high:.2f} (95 %, bootstrap over test images)")


def _each(work: Callable[[str], Any], names: Sequence[str], processes: int) -> Iterator[Any]:
    """The result of every name, in their order."""
    if processes == 1:
        yield from map(work, names)
        return
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield from pool.map(work, names)


def _outcomes(
    name: str,
    *,
    rehearsals: Sequence[Rehearsal],
    sessions: Sessions,
    train: Batch,
    test: Batch,
    seeds: int,
    folder: Path,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The setting of a candidate and its runs, those that are kept and those that are not."""
    digest = fingerprint(nn.ParameterDict({"feature": train["feature"].sum(0)}), sessions.digest)
    key = {"grid": CANDIDATES[name].grid, "data": digest, "rehearsals": REHEARSALS, "rows": REHEARSED}
    setting = kept(folder / f"{name}-setting.json", key, partial(chosen, name, rehearsals))
    found = []
    for seed in range(seeds if CANDIDATES[name].random else 1):
        make = partial(run, name, setting, seed, sessions, train, test)
        found.append(kept(folder / f"{name}-seed-{seed}.json", {"setting": setting, "data": digest}, make))
    return setting, found


def normalized(feature: Tensor, label: Tensor) -> Batch:
    """Rows of features brought to length 1."""
    return {"feature": F.normalize(feature, dim=1), "label": label}


def run(name: str, setting: Setting, seed: int, sessions: Sessions, train: Batch, test: Batch) -> dict[str, Any]:
    """One run over all sessions: figures in percent, seconds of the processor, megabytes, and the predictions."""
    method = CANDIDATES[name].make(seed=seed, classes=len(sessions.class_order), **setting)
    began = time.process_time()
    matrix = learn_sessions(method, sessions, train, test)
    seconds = time.process_time() - began
    last = matrix.base_novel
    return {
        "figures": {
            "base": last.base,
            "novel": last.novel,
            "harmonic": last.harmonic,
            "average": matrix.average_incremental_accuracy,
            "last": matrix.final_accuracy,
            "drop": matrix.performance_drop,
            "seconds": seconds,
            "megabytes": method.nbytes / 1e6,
        },
        "by session": matrix.overall,
        "predicted": predicted(method, test["feature"]).tolist(),
    }


def kept(path: Path, key: Setting, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` returns, or what it returned earlier for the same ``key`` and is kept in ``path``."""
    if path.is_file():
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if held["key"] == json.loads(json.dumps(key)):
            found: dict[str, Any] = held["found"]
            return found
    found = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(json.dumps({"key": key, "found": found}), encoding="utf-8")
    return found


def bootstrapped(
    right: Tensor, other: Tensor, is_base: Tensor, seed: int = 0, draws: int = 1000
) -> tuple[float, float]:
    """The 95 % interval of the difference in harmonic mean of two methods, over draws of the test rows.

    Args:
        right: whether the first is right, bool (N,).
        other: whether the second is.
        is_base: which rows are of base classes.
        seed: of the draws.
        draws: how many.
    """
    generator = generator_at(seed, "bootstrap")
    both = torch.stack([right, other]).double()
    means = []
    for part in (both[:, is_base], both[:, ~is_base]):
        index = torch.randint(part.shape[1], (draws, part.shape[1]), generator=generator)
        means.append(torch.stack([row[index].mean(1) for row in part]))
    base, novel = means
    harmonic = 200 * base * novel / (base + novel).clamp(min=1e-12)
    low, high = (harmonic[0] - harmonic[1]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
