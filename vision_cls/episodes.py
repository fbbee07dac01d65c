"""Episodes: how well a network tells novel classes from a few shots, by several methods, on N-way K-shot episodes.

Run as ``memreplay vision episodes``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..arguments import command
from ..core.batch import Batch
from ..core.few_shot import METHODS, WITHOUT_BASE, candidates, choose, memory_bytes
from ..core.protocols.episodes import Episodes, episode_accuracies
from ..core.readout import Readout
from ..core.reporting import Results
from .backbones import Classifier, Conv4
from .data import ByClass, ClassData, Data, Digits
from .episodic import ProtoNet, Training, Views
from .features import default_cache


def episodes(
    data: ClassData | Data = Digits(),  # noqa: B008 (immutable)
    backbone: Callable[[int, int, int], Classifier] = Conv4,
    training: Training | None = ProtoNet(),  # noqa: B008 (immutable)
    methods: list[str] | None = None,
    way: int = 5,
    shots: list[int] = [1, 5],  # noqa: B006 (not changed)
    query: int = 15,
    number: int = 600,
    tuning: int = 100,
    views: Views = Views(),  # noqa: B008 (immutable)
    seed: int = 0,
    out: Path = Path("runs/episodes"),
    resume: bool = False,
) -> Results:
    """Trains a network on base classes, or takes it as it is, and judges it on episodes of novel ones.

    Accuracy is in percent, with a 95 % interval over the episodes. Features are made once, and
    kept for later runs where nothing is trained. What a method can be set to
    is chosen on episodes of validation classes, where the data has enough of them; otherwise its usual setting is
    used. The settings are told in ``results.json``.

    Args:
        data: base, validation and novel classes; images that are not parted by class are parted by chance, with half of
            the classes novel (`ByClass` says otherwise).
        backbone: the network, made from the images' channels and size and the number of classes.
        training: how it learns from the base classes; null: it stays as it is, for weights that were learned elsewhere.
        methods: how novel classes are learned from shots: ncm, cl2n, knn, logistic, cache, calibration, baseline++;
            null for all but baseline++, which is slow, and those that need base classes where there are none.
        way: classes of an episode.
        shots: shots per class; several give several columns.
        query: queries per class.
        number: of episodes.
        tuning: episodes of validation classes.
        views: the side that the network sees, and whether features are means over changed copies of an image.
        seed: of the weights, the training and the episodes.
        out: folder for the results, and for checkpoints of the training.
        resume: go on with the run in ``out``.
    """
    parts = (data if isinstance(data, ClassData) else ByClass(data, novel=0.5)).load()
    named = methods or [name for name in METHODS if name != "baseline++" and (name in WITHOUT_BASE or len(parts.base))]
    for name in named:
        if name not in METHODS:
            raise ValueError(f"methods is {name!r}; expected one of {', '.join(METHODS)}")
    drawn = {shot: Episodes(parts.novel.labels, way, shot, query, number, seed) for shot in shots}
    channels, size = parts.novel.images.shape[1:3]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = backbone(channels, size, max(1, len(parts.base.classes)))
    options: dict[str, dict[str, Readout]] = {}
    if training is not None:
        if not len(parts.base):
            raise ValueError("training is set, but data has no base classes; expected some, or training null")
        readout = training.train(model, parts.base, seed=seed, out=out / "training", resume=resume)
        options[type(training).__name__] = {"as trained": readout}
    cache = default_cache() if training is None else None
    feature = views(model, parts.novel, cache)
    base: Batch | None = None
    if len(parts.base) and not set(named) <= set(WITHOUT_BASE):
        base = {"feature": views(model, parts.base, cache), "label": parts.base.labels}
    options |= {name: candidates(name, base) for name in named}
    known = views(model, parts.validation, cache) if len(parts.validation.classes) >= way else None

    results = Results("vision episodes", {"seed": seed, "episodes": [repr(one) for one in drawn.values()]})
    for name, settings in options.items():
        for shot, judged in drawn.items():
            setting = next(iter(settings))
            if known is not None:
                setting = choose(settings, known, Episodes(parts.validation.labels, way, shot, query, tuning, seed + 1))
            results.config[f"{name} {shot}-shot"] = setting
            accuracies = episode_accuracies(settings[setting], feature, judged)
            results.memory_bytes = max(results.memory_bytes, memory_bytes(settings[setting]))
            results.add(name, f"{way}-way {shot}-shot", accuracies)
    results.save(out)
    results.print()
    return results


def main(args: Sequence[str] | None = None) -> None:
    """The entry point: ``--config FILE`` takes a YAML file."""
    command(episodes, "memreplay vision episodes", args, config="a YAML file")


if __name__ == "__main__":
    main()
