"""Choosing a policy: five ways of keeping and four of recalling, on images, texts and a regression, two models each.

Every run learns a stream whose rows change with time, one pass or a few over each part, and is judged on all of it at
the end. Nothing but the memory is left of what came before. The streams:

- ``image``: scikit-learn's handwritten digits, two classes at a time; accuracy.
- ``text``: the intents of this package, two at a time, as token vectors of all-MiniLM-L6-v2, frozen; accuracy.
- ``regression``: scikit-learn's diabetes patients by what their disease comes to, which is to be told, a fifth at a
  time, the mildest first; the share of the variance explained, in percent: it is below 0 where the mean of the targets
  would have been better.

Models are a perceptron with one hidden layer and a recurrent network (GRU) that reads the rows of an image, the tokens
of a text, the features of a patient one by one. Memories hold 2 or 10 rows for each class, or fifth of the targets.

Kept: ``fifo``, the latest; ``reservoir``, a uniform sample; ``balanced``, one of each class; ``gradient``, those whose
gradient was longest when they came; ``herding``, those whose mean is nearest to the mean of their class, chosen at the
end of every part. Until then the memory has old rows alone, which is worth something in itself: ``late``, the control,
is a uniform sample that takes a part in at its end. Recalled, ten at a step: ``uniform``; ``balanced``, the classes in
equal shares; ``nearest``, the most similar to the new rows; ``hardest``, those of the highest loss among fifty. Keeping
by gradient and recalling the nearest is ``classic``.

One learning rate serves all policies of a stream and model; it is chosen on validation rows, with a uniform sample
recalled uniformly, at a seed of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core import scores
from ...core.batch import Batch, take
from ...core.memory import ReplayMemory
from ...core.mixers import CrossEntropy, MeanSquaredError, ReplayCrossEntropy, ReplayMeanSquaredError, joint_forward
from ...core.mixers.term import Term
from ...core.protocols.seeding import generator_at
from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ...core.retrievers import Nearest, Rescored
from ...core.selection import ClassBalanced, Selector, TopScore, Uniform
from ...core.selection.balanced import groups_of
from ...core.stores import Store
from ...core.stores.keeping import Fifo, Herding, Reservoir
from ..bundled import bundled_encoder, intents
from ..encoder import TextEncoder

SEEDS = 5
TUNING_SEED = 100
RATES = (0.001, 0.003, 0.01)
PER_GROUP = (2, 10)
BATCH = REPLAY = 10
HIDDEN = 64
TOKENS = 12

HERDING = ClassBalanced(Herding("feature"), "group")
KEEPING: dict[str, Selector] = {
    "fifo": Fifo(),
    "reservoir": Reservoir(),
    "balanced": ClassBalanced(Reservoir(), "group"),
    "gradient": TopScore("gradient_norm"),
    "herding": HERDING,
    "late": Reservoir(),
}
LATE = ("herding", "late")
"""Take a part in at its end."""
RECALLING: dict[str, Selector] = {
    "uniform": Uniform(),
    "balanced": ClassBalanced(Uniform(), "group"),
    "nearest": Nearest("feature"),
    "hardest": Rescored(Uniform(), 50),
}
MODELS = ("perceptron", "recurrent")


@dataclass(frozen=True, eq=False)
class Stream:
    """Rows in the order in which they come.

    Attributes:
        rows: ``flat`` (N, D) and ``sequence`` (N, T, d), the same for either model; ``label`` int64 or ``target``
            float (N,); ``group`` int64 (N,), the class, or the fifth that the target falls in; ``part`` int64 (N,),
            when a row comes.
        outputs: of the model.
        passes: over each part.
    """

    rows: Batch
    outputs: int
    passes: int

    @property
    def groups(self) -> int:
        """Classes, or fifths."""
        return int(self.rows["group"].max()) + 1

    @property
    def classifies(self) -> bool:
        """Whether there are labels, or else targets."""
        return "label" in self.rows

    @property
    def loss(self) -> Term:
        """The same on memory as on data."""
        if self.classifies:
            return CrossEntropy() + ReplayCrossEntropy()
        return MeanSquaredError(output="logits") + ReplayMeanSquaredError(output="logits")

    def row_loss(self, outputs: Mapping[str, Tensor], rows: Batch) -> Tensor:
        """Of every row, (B,)."""
        if self.classifies:
            return scores.loss(outputs["logits"], rows["label"])
        return (outputs["logits"].squeeze(1) - rows["target"]).square()

    def gradient_norm(self, outputs: Mapping[str, Tensor], rows: Batch) -> Tensor:
        """Of every row's loss in the last layer, (B,)."""
        if self.classifies:
            return scores.gradient_norm(outputs["feature"], outputs["logits"], rows["label"])
        error = 2 * (outputs["logits"].squeeze(1) - rows["target"]).abs()
        return error * (outputs["feature"].square().sum(1) + 1).sqrt()

    def score(self, outputs: Mapping[str, Tensor], rows: Batch) -> float:
        """Accuracy, or explained variance, in percent."""
        if self.classifies:
            return 100 * float((outputs["logits"].argmax(1) == rows["label"]).double().mean())
        spread = (rows["target"] - rows["target"].mean()).square().mean()
        return 100 * (1 - float(self.row_loss(outputs, rows).mean() / spread))

    def split(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Three fifths of the rows of every part to learn from, a fifth to choose by, a fifth to be judged on."""
        place = torch.randperm(len(self.rows["part"]), generator=generator_at(seed, "split"))
        order = place[self.rows["part"][place].argsort(stable=True)]
        fifth = torch.arange(len(order)) % 5
        return order[fifth < 3], order[fifth == 3], order[fifth == 4]


class Network(nn.Module):
    """A hidden layer, or a GRU whose last state takes its place, and a linear layer.

    Args:
        stream: what it shall learn.
        recurrent: whether it reads sequences.
    """

    def __init__(self, stream: Stream, recurrent: bool) -> None:
        super().__init__()
        self.reads = "sequence" if recurrent else "flat"
        width = stream.rows[self.reads].shape[-1]
        self.body = nn.GRU(width, HIDDEN, batch_first=True) if recurrent else nn.Linear(width, HIDDEN)
        self.head = nn.Linear(HIDDEN, stream.outputs)

    def forward(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``feature`` (B, 64) and ``logits`` (B, C)."""
        found = self.body(rows[self.reads])
        feature = found[1][0] if isinstance(self.body, nn.GRU) else F.relu(found)
        return {"feature": feature, "logits": self.head(feature)}


def images() -> Stream:
    """The digits."""
    from sklearn.datasets import load_digits

    data = load_digits()
    flat, label = torch.from_numpy(data.data / 16).float(), torch.from_numpy(data.target).long()
    rows = {"flat": flat, "sequence": flat.view(-1, 8, 8), "label": label, "group": label, "part": label // 2}
    return Stream(rows, 10, passes=1)


def texts() -> Stream:
    """The intents; the tokens of a short text come last, so that all are read to their end."""
    data = intents()
    encoder = TextEncoder.load(bundled_encoder(), device="cpu")
    sequence = torch.zeros(len(data), TOKENS, encoder.dim)
    with torch.inference_mode():
        for row, ids in enumerate(encoder.tokens(data.texts)):
            states = encoder.body(input_ids=torch.tensor([ids])).last_hidden_state[0, -TOKENS:]
            sequence[row, TOKENS - len(states) :] = F.normalize(states, dim=1)
    label = data.labels
    rows = {"flat": F.normalize(sequence.sum(1), dim=1), "sequence": sequence, "label": label, "group": label}
    return Stream({**rows, "part": label // 2}, len(data.classes), passes=5)


def patients() -> Stream:
    """The diabetes study: what the disease comes to within a year."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    flat = torch.from_numpy(data.data / data.data.std(0)).float()
    target = torch.from_numpy((data.target - data.target.mean()) / data.target.std()).float()
    rows = {"flat": flat, "sequence": flat[:, :, None], "target": target}
    return Stream({**rows, "group": fifths(target), "part": fifths(target)}, 1, passes=4)


STREAMS: dict[str, Callable[[], Stream]] = {"image": images, "text": texts, "regression": patients}


def fifths(values: Tensor) -> Tensor:
    """The fifth that each value is in, from the lowest, 0 to 4.

    >>> fifths(torch.tensor([5.0, 1.0, 9.0, 7.0, 3.0])).tolist()
    [2, 0, 4, 3, 1]
    """
    return values.argsort().argsort() * 5 // len(values)


def run(
    stream: Stream,
    model: str,
    memory: ReplayMemory | None,
    lr: float,
    seed: int,
    *,
    late: bool = False,
    valid: bool = False,
    joint: bool = False,
) -> float:
    """What a network knows of a whole stream after its last part.

    Args:
        stream: what comes.
        model: ``"perceptron"`` or ``"recurrent"``.
        memory: empty; None: no memory.
        lr: learning rate (Adam).
        seed: of the split, the network and the order of the rows.
        late: the memory takes a part in at its end, and not row by row.
        valid: judge on the rows to choose by.
        joint: the whole stream is one part.
    """
    train, chosen, test = (take(stream.rows, index) for index in stream.split(seed))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(stream, model == "recurrent")
    optimizer = torch.optim.Adam(network.parameters(), lr)
    memory = ReplayMemory(mix=stream.loss) if memory is None else memory
    parts = [train] if joint else [take(train, rows) for rows in groups_of(train, "part").values()]
    columns = (network.reads, "label" if stream.classifies else "target", "group")
    for number, part in enumerate(parts):
        for turn, batch in _batches(part, stream.passes, generator_at(seed, "order", number)):
            with torch.no_grad():
                query = {"feature": network(batch)["feature"]} if _by_similarity(memory) else None
            score = partial(_score, stream, network) if _by_score(memory) else None
            recalled = memory.recall(query, score)
            new, old = joint_forward(network, batch, recalled, forward=_forward)
            memory.loss(new, old).backward()
            optimizer.step()
            optimizer.zero_grad()
            if turn == 0 and not late:
                memory.remember(**_remembered(stream, new.outputs, batch, columns))
        if late and isinstance(memory.source, Store):
            with torch.no_grad():
                rows = _remembered(stream, network(part), part, columns)
            if memory.source.keep == HERDING:
                memory.source.consolidate(HERDING, candidates=rows)
            else:
                memory.remember(**rows)
    judged = chosen if valid else test
    with torch.no_grad():
        return stream.score(network(judged), judged)


def policy(stream: Stream, keeping: str, recalling: str, per_group: int, seed: int) -> ReplayMemory:
    """An empty memory that keeps and recalls in the ways named."""
    store = Store(per_group * stream.groups, keep=KEEPING[keeping], seed=seed)
    return ReplayMemory(store, RECALLING[recalling], stream.loss, REPLAY, seed=seed)


def reproduce(*, seeds: int | None = None, data: Path | None = None, out: Path, only: Sequence[str] = ()) -> Results:
    """Runs all policies on all streams with both models, and prints what each choice gains.

    Args:
        seeds: how many splits and networks; 5 by default.
        data: not needed; all data comes with packages.
        out: folder for the results.
        only: streams, or ways of keeping; all by default.

    Raises:
        ValueError: ``only`` names none of them.
    """
    check_asked(only, (*STREAMS, *KEEPING))
    tasks, kept = ([name for name in known if name in only] or list(known) for known in (STREAMS, KEEPING))
    numbers = range(SEEDS if seeds is None else seeds)
    results = Results("nlp/policies", {"replay": REPLAY, "batch": BATCH, "hidden": HIDDEN})
    rates: dict[str, float] = {}
    effects: list[tuple[str, str, list[float]]] = []
    for task in tasks:
        stream = STREAMS[task]()
        for model in MODELS:
            tried = {lr: _tuned(stream, model, lr) for lr in RATES}
            lr = rates[f"{task}, {model}"] = max(tried, key=lambda rate: tried[rate])
            for name, joint in (("none", False), ("joint", True)):
                found = [run(stream, model, None, lr, seed, joint=joint) for seed in numbers]
                results.add(f"{task}, {model}, {name}", "uniform", found)
            for per_group in PER_GROUP:
                cell = f"{task}, {model}, {per_group * stream.groups} rows"
                grid: dict[tuple[str, str], list[float]] = {}
                for keeping in kept:
                    for recalling in RECALLING:
                        found = []
                        for seed in numbers:
                            memory = policy(stream, keeping, recalling, per_group, seed)
                            found.append(run(stream, model, memory, lr, seed, late=keeping in LATE))
                        grid[keeping, recalling] = found
                        results.add(f"{cell}, {keeping}", recalling, grid[keeping, recalling])
                effects += [(cell, choice, gain) for choice, gain in gains(grid)]
                print(f"{cell}: " + ", ".join(f"{choice} {sum(gain) / len(gain):+.1f}" for choice, gain in gains(grid)))
    for cell, choice, gain in effects:
        results.add(cell, choice, gain)
    results.config["learning_rates"] = rates
    print(f"mean ± 95 % interval over {len(numbers)} seeds; wrote {results.save(out)}")
    return results


def gains(grid: Mapping[tuple[str, str], Sequence[float]]) -> Iterator[tuple[str, list[float]]]:
    """What each way of keeping gains over a reservoir, on average over the ways of recalling, and each of these over
    uniform recall, on average over the ways of keeping; seed by seed.

    >>> grid = {("reservoir", "uniform"): [1.0], ("reservoir", "nearest"): [2.0]}
    >>> list(gains(grid | {("fifo", "uniform"): [0.0], ("fifo", "nearest"): [0.0]}))
    [('keep fifo', [-1.5]), ('recall nearest', [0.5])]
    """
    for axis, word, usual in ((0, "keep", "reservoir"), (1, "recall", "uniform")):
        choices = dict.fromkeys(pair[axis] for pair in grid)
        for choice in choices:
            if choice != usual and usual in choices:
                theirs, ours = ([grid[pair] for pair in grid if pair[axis] == named] for named in (choice, usual))
                gap = torch.tensor(theirs, dtype=torch.float64) - torch.tensor(ours, dtype=torch.float64)
                yield f"{word} {choice}", gap.mean(0).tolist()


def _tuned(stream: Stream, model: str, lr: float) -> float:
    memories = [policy(stream, "reservoir", "uniform", per_group, TUNING_SEED) for per_group in PER_GROUP]
    return sum(run(stream, model, memory, lr, TUNING_SEED, valid=True) for memory in memories)


def _batches(part: Batch, passes: int, generator: torch.Generator) -> Iterator[tuple[int, Batch]]:
    """Of every pass its number and batches."""
    for turn in range(passes):
        for index in torch.randperm(len(part["part"]), generator=generator).split(BATCH):
            yield turn, take(part, index)


def _remembered(stream: Stream, outputs: Mapping[str, Tensor], rows: Batch, columns: Sequence[str]) -> Batch:
    found = {name: rows[name] for name in columns}
    with torch.no_grad():
        gradient_norm = stream.gradient_norm(outputs, rows)
    return {**found, "feature": outputs["feature"].detach(), "gradient_norm": gradient_norm}


def _forward(network: Network, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return network(rows)  # type: ignore[no-any-return]


@torch.no_grad()
def _score(stream: Stream, network: Network, rows: Batch) -> Tensor:
    return stream.row_loss(network(rows), rows)


def _by_similarity(memory: ReplayMemory) -> bool:
    return any(isinstance(by, Nearest) for by in memory.draw.values())


def _by_score(memory: ReplayMemory) -> bool:
    return any(isinstance(by, Rescored) for by in memory.draw.values())
