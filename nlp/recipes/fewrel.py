"""Continual FewRel: eight tasks of ten relations, 100 shots in the first and 5 in the others, six orders.

The protocol of Qin and Joty, Continual Few-shot Relation Learning via Embedding Space Regularization and Data
Augmentation (ERDA, ACL 2022): the base task comes first, the seven others in an order by seed; after each task a
sentence must be given one of all relations seen so far, 100 test sentences each. The entities are marked in the text.
The encoder is frozen; its vectors are whitened by the statistics of the base task, see `Whitening`. Methods:

- ``none``: the head is trained on the new relations alone.
- ``er``: and on one remembered sentence of each old relation.
- ``adapter``: the head is solved for the new rows, one remembered sentence of each old relation and the names of the
  relations, with the head so far as the prior.
- ``gaussian``: the memory is one vector per relation, the mean, and one covariance for all; the head is solved for the
  new rows and vectors drawn from it. No sentence is stored.
- ``joint``: logistic regression on all sentences so far, 100 of each base relation and 5 of any other, as they come:
  it leans towards the base relations, which the even draws of ``gaussian`` do not.

Settings were chosen on the training sentences, by leaving out one of five shots of every relation in turn. The
published figures, on BERT-base fine-tuned, keep one sentence per relation and are of accuracy after the eighth task.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ...core.batch import Batch
from ...core.heads import LogisticRegression, TrainedHead
from ...core.incremental import GaussianReplay, Method, Solved, er, learn_sessions, none
from ...core.protocols.sessions import Sessions
from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ...core.stores import GaussianStore
from ...core.whitening import Whitening
from ..bundled import bundled_encoder, data_folder
from ..embeddings import default_cache
from ..encoder import TextEncoder
from ..relations import Mention, embed_mentions

SEEDS = 6
TASKS = 8
LAYERS = (4, 5, 6)
SHRINKAGE = 0.3
PUBLISHED = {"ERDA": 31.96, "RP-CRE": 59.57, "ConPL": 62.46, "SCKD": 62.98, "CPL": 64.50, "SIRUS": 69.16}

METHODS: dict[str, Callable[[int], Method]] = {
    "none": lambda seed: none(TrainedHead(lr=0.003), seed),
    "er": lambda seed: er(TrainedHead(lr=0.003), 80, seed),
    "adapter": lambda seed: Solved(LogisticRegression(), per_class=1, seed=seed),
    "gaussian": lambda seed: GaussianReplay(LogisticRegression(), draws=5, seed=seed),
    "joint": lambda seed: Solved(LogisticRegression(), seed=seed),
}


def reproduce(*, seeds: int | None = None, data: Path | None = None, out: Path, only: Sequence[str] = ()) -> Results:
    """Runs the methods over the tasks and prints their table.

    Args:
        seeds: how many orders of the tasks; 6 as published by default.
        data: folder with ``fewrel_cfrl/k5``, ``tasks.json`` and ``relation_name.txt``; by default ``$MEMREPLAY_DATA``.
        out: folder for the results.
        only: methods.

    Raises:
        ValueError: ``only`` names no method, or the data is not there.
    """
    check_asked(only, METHODS)
    folder = data_folder(data, "fewrel_cfrl")
    names = (folder / "relation_name.txt").read_text("utf-8").split("\n")[:80]
    encoder = TextEncoder.load(bundled_encoder())
    encoder.pooling = replace(encoder.pooling, layers=LAYERS)
    train, test = (_read(folder / "k5" / f"{part}_0.tsv", encoder) for part in ("train", "test"))
    # the name of a relation has no entities: its vector stands in all three places
    named = encoder.embed(names).repeat(1, 3) / 3**0.5
    tasks = _tasks(folder)
    base = torch.isin(train["label"], torch.tensor(tasks[TASKS - 1]))
    statistics = GaussianStore(covariance="shared")
    statistics.add({name: values[base] for name, values in train.items()})
    white = Whitening.of_memory(statistics, SHRINKAGE)
    train, test = ({**part, "feature": white(part["feature"])} for part in (train, test))
    named = white(named)
    settings = {"encoder": "all-MiniLM-L6-v2", "layers": LAYERS, "shrinkage": SHRINKAGE, "published": PUBLISHED}
    results = Results("nlp/fewrel", settings)
    for name in (name for name in METHODS if not only or name in only):
        matrices = []
        for seed in range(SEEDS if seeds is None else seeds):
            order = torch.randperm(TASKS - 1, generator=torch.Generator().manual_seed(seed)).tolist()
            relations = [label for number in order for label in tasks[number]]
            sessions = Sessions(train["label"], tasks[TASKS - 1], way=10, shot=5, class_order=relations)
            method = METHODS[name](seed)
            matrices.append(learn_sessions(method, sessions, train, test, named))
            if name != "joint":
                results.memory_bytes = max(results.memory_bytes, method.nbytes)
        for number in range(TASKS):
            after = [matrix.overall[number] for matrix in matrices]
            published = PUBLISHED["SIRUS"] if name == "gaussian" and number == TASKS - 1 else None
            results.add(name, f"after task {number + 1}", after, published)
    _print(results)
    print(f"accuracy in percent, mean ± 95 % interval over the orders; wrote {results.save(out)}")
    return results


def _print(results: Results) -> None:
    """A line per method; eight tasks with published figures beside each would not fit a terminal."""
    for name in dict.fromkeys(row.name for row in results.rows):
        rows = [row for row in results.rows if row.name == name]
        print(f"{name:<8} " + "  ".join(f"{row.ours:.2f}" for row in rows) + f"  ± {rows[-1].ci95 or 0:.2f} at last")
    print("published, after task 8: " + ", ".join(f"{name} {figure:.2f}" for name, figure in PUBLISHED.items()))


def _read(path: Path, encoder: TextEncoder) -> Batch:
    mentions, labels = [], []
    for line in path.read_text("utf-8").splitlines():
        label, _, words, _, head, _, tail, *_ = line.split("\t")
        mentions.append(Mention(tuple(words.split(" ")), _places(head), _places(tail)))
        labels.append(int(label) - 1)
    return {"feature": embed_mentions(encoder, mentions, default_cache()), "label": torch.tensor(labels)}


def _places(text: str) -> tuple[int, ...]:
    return tuple(int(place) for place in text.split())


def _tasks(folder: Path) -> list[list[int]]:
    """The relations of each task, from 0; the base task is the last."""
    tasks = json.loads((folder / "tasks.json").read_text("utf-8"))["tasks"]["k5"]["clusters"]
    return [[label - 1 for label in tasks[str(number)]] for number in range(TASKS)]
