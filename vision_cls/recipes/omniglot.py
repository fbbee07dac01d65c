"""Omniglot, trained on Lake's small background sets: the official 20 runs of one-shot classification, and episodes.

Each of the two small background sets has five alphabets (136 and 156 characters, twenty drawings of each). Networks
(Conv4, drawings of 28 x 28) are trained on one set alone, characters turned by quarters being further classes, with
small affine changes. They are judged on

- the official 20 runs (Lake, Salakhutdinov and Tenenbaum, Science 2015): 20 characters of one new alphabet, one
  drawing of each, 20 drawings by another person; error in percent, mean over the runs. In that paper, with all thirty
  background alphabets, people make 4.5 % errors and Bayesian program learning 3.3 %;
- 1,000 episodes per column on the three alphabets that the other small set has and theirs has not, 15 queries per
  class; accuracy in percent.

Methods: ``pixels`` (cosine between drawings, nothing is learned), ``protonet``, ``anil`` (20 ways, so it says nothing
of 5-way episodes; one shot in training) and ``cosine`` (a cosine classifier of all background characters, then the
nearest class mean). ``+ views``: features are means over an image and eight changed copies of it.

What was chosen, on 20-way episodes within an alphabet held out from the first set (Korean): the views (2 points better
than none) and the euclidean distance (2 points better than the cosine). All else was set beforehand; the learning rate
falls to 0 at the last step, whose weights are judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...core.mixers import RandomAffine
from ...core.protocols.episodes import Episodes, episode_accuracies
from ...core.readout import NearestClassMean, Readout
from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ..backbones import Conv4
from ..data import ImageSet, Omniglot, omniglot, omniglot_runs, rotated
from ..data.omniglot import Part
from ..episodic import ANILTraining, CosineTraining, ProtoNet, Training, Views

SETS: dict[str, Part] = {"small1": "background_small1", "small2": "background_small2"}
SIZE = 28
EPISODES = 1000
QUERY = 15
VIEWS = Views(8, RandomAffine(8.0, 0.05, (0.9, 1.1)))
_AUGMENT = RandomAffine(15.0, 0.1, (0.8, 1.2))
TRAININGS: dict[str, Training] = {
    "protonet": ProtoNet(way=40, shot=1, query=2, episodes=1500, augment=_AUGMENT),
    "anil": ANILTraining(way=20, shot=1, query=2, episodes=1000, augment=_AUGMENT),
    "cosine": CosineTraining(steps=1000, batch_size=60, augment=_AUGMENT),
}
METHODS = ("pixels", *TRAININGS)


def reproduce(*, seeds: int | None = None, data: Path | None = None, out: Path, only: Sequence[str] = ()) -> Results:
    """Trains on both sets, runs the episodes and prints the table.

    Training is checkpointed in ``out``; a reproduction that was stopped goes on from there.

    Args:
        seeds: networks per method and set, whose figures are averaged run by run; 1 by default.
        data: folder with ``images_background_small1``, ``images_background_small2`` and ``all_runs`` as folders or zip
            files; by default ``$MEMREPLAY_DATA``.
        out: folder for the results and checkpoints.
        only: methods, or methods trained on one set, such as ``protonet-small1``; all by default.

    Raises:
        ValueError: ``only`` names no method.
        FileNotFoundError: the data is not there.
    """
    cells = {method: [f"{method}-{name}" for name in SETS] for method in METHODS}
    check_asked(only, [*cells, *(cell for of_method in cells.values() for cell in of_method)])
    runs, official = omniglot_runs(root=data, size=SIZE)
    novel = {name: _novel(name, data) for name in SETS}
    config = {"trainings": {name: repr(training) for name, training in TRAININGS.items()}, "views": repr(VIEWS)}
    results = Results("vision_cls/omniglot", {**config, "episodes": EPISODES, "query": QUERY})
    for method in METHODS:
        sets = [name for name in SETS if not only or {method, f"{method}-{name}"} & {*only}]
        ways = (20,) if method == "anil" else (5, 20)
        for view in (None,) if method == "pixels" else (Views(), VIEWS):
            label = f"{method} + views" if view is VIEWS else method
            errors: dict[str, list[float]] = {}
            for name in sets:
                judged: list[tuple[Readout, Tensor, Tensor]] = []
                for seed in range(1 if view is None else seeds or 1):
                    if view is None:
                        judged.append((NearestClassMean(), _pixels(runs), _pixels(novel[name])))
                    else:
                        model, readout = _trained(method, name, seed, data, out)
                        judged.append((readout, view(model, runs), view(model, novel[name])))
                found = [episode_accuracies(readout, on_runs, official) for readout, on_runs, _ in judged]
                errors[name] = [100 - accuracy for accuracy in _mean(found)]
                results.add(f"{label}, {name}", "error in the 20 runs", errors[name])
                for way in ways:
                    for shot in (1, 5):
                        drawn = Episodes(novel[name].labels, way, shot, QUERY, EPISODES, seed=0)
                        found = [episode_accuracies(readout, feature, drawn) for readout, _, feature in judged]
                        results.add(f"{label}, {name}", f"{way}-way {shot}-shot", _mean(found))
            if len(sets) == len(SETS):
                results.add(f"{label}, mean of both", "error in the 20 runs", _mean(list(errors.values())))
            results.save(out)
    results.print()
    print(f"percent, mean ± 95 % interval over the runs or episodes; wrote {results.save(out)}")
    return results


def _novel(trained_on: str, data: Path | None) -> ImageSet:
    """The alphabets of the other set that ``trained_on`` has not."""
    (other,) = (part for name, part in SETS.items() if name != trained_on)
    known = {name.partition("/")[0] for name in omniglot(SETS[trained_on], root=data, size=SIZE).classes}
    alphabets = {name.partition("/")[0] for name in omniglot(other, root=data, size=SIZE).classes}
    root = None if data is None else str(data)
    return Omniglot((other,), root, SIZE, novel=sorted(alphabets - known), validation=()).load().novel


def _trained(method: str, name: str, seed: int, data: Path | None, out: Path) -> tuple[Conv4, Readout]:
    """A network trained by a method on a set, and its readout."""
    base = rotated(omniglot(SETS[name], root=data, size=SIZE))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Conv4(1, SIZE, 1)
    where = out / "training" / f"{method}-{name}-seed-{seed}"
    readout = TRAININGS[method].train(model, base, seed=seed, out=where, resume=True, save_every=250)
    return model, NearestClassMean() if method == "cosine" else readout


def _pixels(images: ImageSet) -> Tensor:
    return images.batch()["input"].flatten(1)


def _mean(columns: Sequence[Sequence[float]]) -> list[float]:
    """Mean of several lists, element by element."""
    return [sum(values) / len(values) for values in zip(*columns, strict=True)]
