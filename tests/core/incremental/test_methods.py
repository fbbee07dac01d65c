import pytest
import torch

from memreplay import Batch, Sessions
from memreplay.core.heads import LinearDiscriminant, LogisticRegression, TrainedHead
from memreplay.core.incremental import (
    GaussianReplay,
    Method,
    Solved,
    Streaming,
    classic,
    der_pp,
    er,
    learn_sessions,
    none,
)

HOW = TrainedHead(steps=60, lr=0.3)


def blobs(seed: int, n: int = 20, classes: int = 6, dim: int = 16) -> Batch:
    centre = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(classes).repeat_interleave(n)
    feature = centre[label] + 0.5 * torch.randn(len(label), dim, generator=generator)
    return {"feature": torch.nn.functional.normalize(feature, dim=1), "label": label}


def accuracy(method: Method, shot: int | None = 5) -> tuple[float, float]:
    train, test = blobs(1), blobs(2)
    sessions = Sessions(train["label"], base=2, way=2, shot=shot)
    named = torch.stack([train["feature"][train["label"] == c].mean(0) for c in range(6)])
    matrix = learn_sessions(method, sessions, train, test, named)
    return matrix.final_accuracy, matrix.forgetting


METHODS: dict[str, Method] = {
    "er": er(HOW, 30),
    "der++": der_pp(HOW, 30),
    "classic": classic(HOW, 30),
    "gaussian": GaussianReplay(LogisticRegression()),
    "streaming": Streaming(LinearDiscriminant()),
    "solved": Solved(LogisticRegression(), 30),
    "one of each": Solved(LogisticRegression(), per_class=1),
    "joint": Solved(LogisticRegression()),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_memory_keeps_what_training_alone_forgets(name: str) -> None:
    without, forgotten = accuracy(none(HOW))
    assert without < 85
    assert forgotten > 20
    last, forgetting = accuracy(METHODS[name])
    assert last > without + 5
    assert forgetting < forgotten - 10
    assert METHODS[name].nbytes > 0


def test_the_memory_is_bounded_and_balanced() -> None:
    method = Solved(LogisticRegression(), per_class=1)
    accuracy(method)
    assert method.memory.rows()["label"].sort().values.tolist() == list(range(6))
    full = er(HOW, 12)
    accuracy(full)
    assert full.memory is not None
    assert len(full.memory.source) == 12


def test_the_discriminant_is_the_closed_form() -> None:
    """By hand, from all rows at once."""
    train = blobs(1)
    method = Streaming(LinearDiscriminant(0.2))
    accuracy(method, shot=None)
    x, y = train["feature"].double(), train["label"]
    means = torch.stack([x[y == c].mean(0) for c in range(6)])
    gap = x - means[y]
    within = gap.T @ gap / (len(x) - 6)
    spread = 0.8 * within + 0.2 * within.diag().mean() * torch.eye(16).double()
    inverse = torch.linalg.inv(spread)
    logits = x @ inverse @ means.T - 0.5 * ((means @ inverse) * means).sum(1)
    assert method.head is not None
    assert torch.allclose(method.head(train["feature"]).double(), logits, rtol=1e-3, atol=1e-2)


def test_a_seed_repeats_and_another_does_not() -> None:
    heads = []
    for seed in (0, 0, 1):
        method = er(HOW, 12, seed)
        accuracy(method)
        assert method.head is not None
        heads.append(method.head.weight.detach())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_new_classes_start_at_the_mean_of_their_rows() -> None:
    rows = {"feature": torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), "label": torch.tensor([0, 0, 1])}
    head = TrainedHead(steps=0).fit(rows, 2)
    assert torch.equal(head.weight, torch.eye(2))
    assert TrainedHead(steps=0).fit(rows, 3, head).weight[2].tolist() == [0.0, 0.0]
