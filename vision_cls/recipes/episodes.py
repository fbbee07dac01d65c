"""Episodes on mini-ImageNet with features of a MobileNetV2 that learned ImageNet: 5-way 1-shot and 5-shot, as transfer.

The 40 classes that are new in few-shot class-incremental mini-ImageNet, their 100 test images each, 15 queries per
class; the 60 base classes, 500 images each, are what `cl2n` and `calibration` recall. The network has seen all of these
classes with their labels (ImageNet-1k), so this compares methods on given features and is no few-shot result of its
own. Images of 84 x 84 are enlarged to 193. Methods are those of `memreplay.core.few_shot`.

What each can be set to is chosen on 100 episodes of the last 20 base classes, with the first 40 as base.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ...core.batch import Batch
from ...core.few_shot import METHODS, candidates, choose, memory_bytes
from ...core.protocols.episodes import Episodes, episode_accuracies
from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ..backbones import TorchvisionModel
from ..data.archive import root_of
from ..data.few_shot_stream import mini_imagenet_stream
from ..features import default_cache, features_of

WEIGHTS = "weights_vision/mobilenet_v2_imagenet_features.safetensors"
SIZE = 193
WAY = 5
QUERY = 15
EPISODES = 600
TUNING = 100


def reproduce(*, seeds: int | None = None, data: Path | None = None, out: Path, only: Sequence[str] = ()) -> Results:
    """Runs the methods over the episodes and prints their table.

    Args:
        seeds: times 600 episodes; 1 by default.
        data: folder with ``mini_imagenet_fscil`` and ``weights_vision``; by default ``$MEMREPLAY_DATA``.
        out: folder for the results.
        only: methods; all by default.

    Raises:
        ValueError: ``only`` names no method.
        FileNotFoundError: the data is not there.
    """
    check_asked(only, METHODS)
    weights = root_of(data) / WEIGHTS
    if not weights.is_file():
        raise FileNotFoundError(f"there is no {weights}; expected the weights of the network there")
    stream = mini_imagenet_stream(data)
    first = stream.sessions[0].classes
    train, test = (
        part.rows((torch.isin(part.labels, first) == is_base).nonzero().squeeze(1))
        for part, is_base in ((stream.train, True), (stream.test, False))
    )
    model = TorchvisionModel(3, SIZE, 1, "mobilenet_v2", weights, mean=(0.5,) * 3, std=(0.5,) * 3)
    made = [features_of(model, part, size=SIZE, cache=default_cache()) for part in (train, test)]
    base: Batch = {"feature": made[0], "label": train.labels}
    known = torch.isin(train.labels, first[:40])
    earlier: Batch = {name: values[known] for name, values in base.items()}
    config = {"weights": weights.name, "size": SIZE, "query": QUERY, "episodes": EPISODES, "tuning": TUNING}
    results = Results("vision_cls/episodes", config)
    for name in (name for name in METHODS if not only or name in only):
        rehearsed, settings = candidates(name, earlier), candidates(name, base)
        for shot in (1, 5):
            tuning = Episodes(train.labels, WAY, shot, QUERY, TUNING, seed=1, classes=first[40:])
            setting = choose(rehearsed, base["feature"], tuning)
            results.config[f"{name} {shot}-shot"] = setting
            judged = Episodes(test.labels, WAY, shot, QUERY, EPISODES * (seeds or 1), seed=0)
            results.add(name, f"{WAY}-way {shot}-shot", episode_accuracies(settings[setting], made[1], judged))
            results.memory_bytes = max(results.memory_bytes, memory_bytes(settings[setting]))
        results.save(out)
    results.print()
    print(f"accuracy in percent, mean ± 95 % interval over the episodes; wrote {results.save(out)}")
    return results
