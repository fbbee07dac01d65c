"""HuffPost headlines: 1,000 episodes, 5-way 1-shot and 5-shot, on frozen vectors.

The split of Bao et al., Few-shot Text Classification with Distributional Signatures (ICLR 2020): 20 classes to learn
statistics from, 5 to choose by, 16 to be judged on, 25 queries per class. Methods:

- ``ncm``: nearest class mean by cosine.
- ``logistic``: logistic regression on the shots.
- ``calibration``: distribution calibration (Yang, Liu and Xu, Free Lunch for Few-shot Learning, ICLR 2021): logistic
  regression on the shots and on vectors drawn around them with the spread of the nearest training classes. The paper
  first takes the square root of its vectors, which ours, having negative entries, do not allow.
- ``ours``: `Expansion`: shots and queries are joined with the texts of the training classes that they recall from a
  memory, then nearest class mean.

Settings are chosen on episodes of the validation classes. Beside ours are the published figures of ContrastNet (Chen et
al., ContrastNet: A Contrastive Learning Framework for Few-Shot Text Classification, AAAI 2022), on BERT-base.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.batch import Batch
from ...core.expansion import Expansion
from ...core.heads import LogisticRegression
from ...core.protocols.episodes import Episode, Episodes
from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ...core.stores import GaussianStore, Store
from ..bundled import bundled_encoder, data_folder
from ..embeddings import default_cache
from ..encoder import TextEncoder

EPISODES = 1000
TUNING_EPISODES = 200
WAY = 5
QUERY = 25
PUBLISHED = {1: {"ours": 53.06}, 5: {"ours": 65.32}}
WEIGHTS = (0.5, 1.0, 2.0)

Solve = Callable[[Tensor, Tensor, Tensor, torch.Generator], Tensor]
"""From shots, their labels and queries to the logits of the queries."""


def nearest_mean(shots: Tensor, labels: Tensor, queries: Tensor, generator: torch.Generator) -> Tensor:
    """Cosine to the mean of each class."""
    means = torch.zeros(WAY, shots.shape[1]).index_add_(0, labels, shots)
    return F.normalize(queries, dim=1) @ F.normalize(means, dim=1).T


def logistic(strength: float) -> Solve:
    """Logistic regression on the shots."""

    def solve(shots: Tensor, labels: Tensor, queries: Tensor, generator: torch.Generator) -> Tensor:
        # the weights lie in the span of the shots: in its coordinates the problem is the same, and small
        axes = torch.linalg.svd(shots, full_matrices=False).Vh.T
        head = LogisticRegression(strength, tolerance=1e-5).fit({"feature": shots @ axes, "label": labels}, WAY)
        with torch.no_grad():
            logits: Tensor = head(queries @ axes)
            return logits

    return solve


def calibration(memory: GaussianStore, axes: Tensor, k: int, alpha: float, drawn: int = 50) -> Solve:
    """Distribution calibration in the directions ``axes`` (D, d), those in which the training classes vary most."""

    def solve(shots: Tensor, labels: Tensor, queries: Tensor, generator: torch.Generator) -> Tensor:
        near = shots @ axes
        parts, names = [near], [labels]
        for label in range(WAY):
            calibrated = memory.calibrate(near[labels == label], k=k, alpha=alpha)
            parts.append(calibrated.draw(drawn, generator))
            names.append(torch.full((drawn,), label))
        rows = {"feature": torch.cat(parts), "label": torch.cat(names)}
        head = LogisticRegression(10.0, tolerance=1e-5).fit(rows, WAY)
        with torch.no_grad():
            logits: Tensor = head(queries @ axes)
            return logits

    return solve


def expanded(expansion: Expansion, feature: Tensor, rows: Tensor, memory: Store) -> Tensor:
    """``feature`` with some of its rows expanded."""
    found = feature.clone()
    found[rows] = expansion(feature[rows], memory)
    return found


def judge(solve: Solve, feature: Tensor, episodes: Episodes) -> list[float]:
    """Accuracy of every episode, in percent."""
    return [_accuracy(solve, feature, episode) for episode in episodes]


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
    known = ("ncm", "logistic", "calibration", "ours")
    check_asked(only, known)
    folder = data_folder(data, "huffpost")
    with (folder / "huffpost.jsonl").open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    splits = json.loads((folder / "splits.json").read_text("utf-8"))["class_splits"]["bao2020"]
    labels = torch.tensor([int(line["label"]) for line in lines])
    feature = TextEncoder.load(bundled_encoder()).embed([line["text"] for line in lines], default_cache())
    train = torch.isin(labels, torch.tensor(splits["train"]))
    rows: Batch = {"feature": feature[train], "label": labels[train]}
    axes = torch.linalg.svd(rows["feature"] - rows["feature"].mean(0), full_matrices=False).Vh[:64].T
    full = GaussianStore(covariance="full")
    full.add({**rows, "feature": rows["feature"] @ axes})
    options: dict[str, dict[str, tuple[Solve, Tensor]]] = {
        "ncm": {"": (nearest_mean, feature)},
        "logistic": {f"C={c:g}": (logistic(c), feature) for c in (1, 10, 100)},
        "calibration": {
            f"k={k}, alpha={a:g}": (calibration(full, axes, k, a), feature) for k in (1, 2) for a in (0.0, 0.01)
        },
    }
    results = Results("nlp/huffpost", {"encoder": "all-MiniLM-L6-v2", "episodes": EPISODES, "query": QUERY})
    if not only or "ours" in only:
        memory = Store(len(rows["label"]))
        memory.add(rows)
        results.memory_bytes = memory.nbytes
        centre = rows["feature"].mean(0)
        centred = Store(len(rows["label"]))
        centred.add({**rows, "feature": rows["feature"] - centre})
        options["ours"] = {
            f"{name}, weight={w:g}": (nearest_mean, expanded(Expansion(weight=w), vectors, ~train, held))
            for name, vectors, held in (("as they are", feature, memory), ("centred", feature - centre, centred))
            for w in WEIGHTS
        }
    for shot in (1, 5):
        tuning = Episodes(labels, WAY, shot, QUERY, TUNING_EPISODES, seed=1, classes=splits["val"])
        judged = Episodes(labels, WAY, shot, QUERY, EPISODES * (seeds or 1), seed=0, classes=splits["test"])
        for name in (name for name in known if not only or name in only):
            several = len(options[name]) > 1
            tried = {o: sum(judge(*how, tuning)) if several else 0.0 for o, how in options[name].items()}
            chosen = max(tried, key=lambda option: tried[option])
            results.config[f"{name} {shot}-shot"] = chosen
            accuracies = judge(*options[name][chosen], judged)
            results.add(name, f"{shot}-shot", accuracies, PUBLISHED[shot].get(name))
    results.print()
    print(f"accuracy in percent, mean ± 95 % interval over the episodes; wrote {results.save(out)}")
    return results


def _accuracy(solve: Solve, feature: Tensor, episode: Episode) -> float:
    generator = torch.Generator().manual_seed(episode.number)
    logits = solve(feature[episode.support], episode.support_labels, feature[episode.query], generator)
    return 100 * float((logits.argmax(1) == episode.query_labels).double().mean())
