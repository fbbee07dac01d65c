"""HuffPost headlines: 1,000 episodes, 5-way 1-shot and 5-shot, on frozen vectors.

The split of Bao et al., Few-shot Text Classification with Distributional Signatures (ICLR 2020): 20 classes to learn
statistics from, 5 to choose by, 16 to be judged on, 25 queries per class. Methods:

- ``ncm``, ``logistic`` and ``calibration``: see `core.few_shot.candidates`. Distribution calibration (Yang, Liu and Xu,
  Free Lunch for Few-shot Learning, ICLR 2021) first takes the square root of its vectors, which ours, having negative
  entries, do not allow.
- ``ours``: `Expansion`: shots and queries are joined with the texts of the training classes that they recall from a
  memory, then nearest class mean.

Settings are chosen on episodes of the validation classes. Beside ours are the published figures of ContrastNet (Chen et
al., ContrastNet: A Contrastive Learning Framework for Few-Shot Text Classification, AAAI 2022), on BERT-base.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from ...core.batch import Batch
from ...core.centring import Centring
from ...core.expansion import Expansion
from ...core.few_shot import candidates, choose, memory_bytes
from ...core.protocols.episodes import Episodes, episode_accuracies
from ...core.readout import NearestClassMean, Readout
from ...core.reporting import Results
from ...core.stores import Store
from ...core.transformed import Transformed
from ..bundled import bundled_encoder, data_folder
from ..embeddings import default_cache
from ..encoder import TextEncoder

EPISODES = 1000
TUNING_EPISODES = 200
WAY = 5
QUERY = 25
METHODS = ("ncm", "logistic", "calibration", "ours")
PUBLISHED = {1: {"ours": 53.06}, 5: {"ours": 65.32}}
WEIGHTS = (0.5, 1.0, 2.0)


def expansions(base: Batch) -> dict[str, Readout]:
    """Nearest class mean of expanded vectors, as they are and centred, by the weight of what is recalled."""
    found: dict[str, Readout] = {}
    for name, transform in (("as they are", None), ("centred", Centring.of(base["feature"]))):
        memory = Store(len(base["label"]))
        memory.add(base if transform is None else {**base, "feature": transform(base["feature"])})
        for weight in WEIGHTS:
            readout = Transformed(partial(Expansion(weight=weight), memory=memory), NearestClassMean())
            found[f"{name}, weight={weight:g}"] = readout if transform is None else Transformed(transform, readout)
    return found


def reproduce(*, seeds: int | None = None, data: Path | None = None, out: Path, only: Sequence[str] = ()) -> Results:
    """Runs the methods over the episodes and prints their table.

    Args:
        seeds: thousands of episodes; 1 by default.
        data: folder with ``huffpost/huffpost.jsonl`` and ``splits.json``; by default ``$MEMREPLAY_DATA``.
        out: folder for the results.
        only: methods.

    Raises:
        ValueError: ``only`` names no method, or the data is not there.
    """
    for name in only:
        if name not in METHODS:
            raise ValueError(f"only is {name!r}; expected one of {', '.join(METHODS)}")
    folder = data_folder(data, "huffpost")
    with (folder / "huffpost.jsonl").open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    splits = json.loads((folder / "splits.json").read_text("utf-8"))["class_splits"]["bao2020"]
    labels = torch.tensor([int(line["label"]) for line in lines])
    feature = TextEncoder.load(bundled_encoder()).embed([line["text"] for line in lines], default_cache())
    train = torch.isin(labels, torch.tensor(splits["train"]))
    base: Batch = {"feature": feature[train], "label": labels[train]}
    results = Results("nlp/huffpost", {"encoder": "all-MiniLM-L6-v2", "episodes": EPISODES, "query": QUERY})
    for name in (name for name in METHODS if not only or name in only):
        options = expansions(base) if name == "ours" else candidates(name, base)
        for shot in (1, 5):
            tuning = Episodes(labels, WAY, shot, QUERY, TUNING_EPISODES, seed=1, classes=splits["val"])
            judged = Episodes(labels, WAY, shot, QUERY, EPISODES * (seeds or 1), seed=0, classes=splits["test"])
            chosen = results.config[f"{name} {shot}-shot"] = choose(options, feature, tuning)
            held = base["feature"].nbytes if name == "ours" else memory_bytes(options[chosen])
            results.memory_bytes = max(results.memory_bytes, held)
            accuracies = episode_accuracies(options[chosen], feature, judged)
            results.add(name, f"{shot}-shot", accuracies, PUBLISHED[shot].get(name))
    results.print()
    print(f"accuracy in percent, mean ± 95 % interval over the episodes; wrote {results.save(out)}")
    return results
