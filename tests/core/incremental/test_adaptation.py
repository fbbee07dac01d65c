import pytest
import torch

from memreplay import Batch, ClassBalanced, Reservoir, Store
from memreplay.core.heads import LogisticRegression
from memreplay.core.incremental import LentSpread
from memreplay.core.incremental.adaptation import HeadStart, Outcome, by_steps, first_shots, rehearse, stopwatch

CENTRES = torch.eye(5)


def rows(classes: list[int], n: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([label for label in classes for _ in range(n)])
    return {"feature": CENTRES[labels] + 0.15 * torch.randn(len(labels), 5, generator=generator), "label": labels}


@pytest.fixture
def start() -> HeadStart:
    memory = Store(30, keep=ClassBalanced(Reservoir()))
    memory.add(rows([0, 1, 2], 10, seed=0))
    head = LogisticRegression().fit(memory.rows().columns, 3)
    return HeadStart(head, memory, rows([0, 1, 2, 3, 4], 40, seed=1))


def test_recall_keeps_the_old_classes_while_the_new_ones_are_learned(start: HeadStart) -> None:
    new = rows([3, 4], 5, seed=2)
    weight, held = start.head.weight.detach().clone(), start.memory.rows().ids
    kept, lost = (start.trained(new, 200, 0.1, recall, seed=0) for recall in (True, False))
    assert kept["new after"] > 90
    assert lost["new after"] > 90
    assert kept["old after"] > 90 > lost["old after"] + 10
    assert torch.equal(start.head.weight, weight)
    assert torch.equal(start.memory.rows().ids, held)


def test_long_training_on_one_shot_keeps_the_new_class_when_the_memory_lends_its_spread() -> None:
    def noisy(classes: list[int], n: int, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.tensor([label for label in classes for _ in range(n)])
        feature = torch.eye(11, 200)[labels] + 0.11 * torch.randn(len(labels), 200, generator=generator)
        return {"feature": torch.nn.functional.normalize((feature + 0.05).relu(), dim=1), "label": labels}

    memory = Store(200, keep=ClassBalanced(Reservoir()))
    memory.add(noisy(list(range(10)), 20, seed=0))
    head = LogisticRegression(tolerance=1e-4).fit(memory.rows().columns, 10)
    judged = noisy(list(range(11)), 100, seed=1)
    found = {}
    for name, spread in (("plain", None), ("lent", LentSpread())):
        start = HeadStart(head, memory, judged, spread)
        found[name] = [start.trained(noisy([10], 1, seed=2), 100, 0.03, recall, seed=0) for recall in (True, False)]
    assert found["lent"][0]["new after"] > found["plain"][0]["new after"] + 20
    assert found["lent"][0]["old after"] > found["plain"][0]["old after"] - 5
    accuracies = [[one[age] for age in ("old after", "new after")] for one in (found["lent"][1], found["plain"][1])]
    assert accuracies[0] == accuracies[1]  # without recall the memory lends nothing


def test_no_steps_are_the_imprinted_head(start: HeadStart) -> None:
    new = rows([3, 4], 5, seed=2)
    means = torch.stack([new["feature"][new["label"] == label].mean(0) for label in (3, 4)])
    logits = start.judged["feature"] @ torch.nn.functional.normalize(means, dim=1).T
    assert start.head.bias is not None
    both = torch.cat([start.head(start.judged["feature"]), logits], 1)
    right = both.argmax(1) == start.judged["label"]
    expected = 100 * right[start.judged["label"] >= 3].double().mean().item()
    assert start.trained(new, 0, 0.1, True, seed=0)["new after"] == pytest.approx(expected)


class Parabola:
    """Its outcome is best at one learning rate, with recall at another than without."""

    def trained(self, rows: Batch, steps: int, lr: float, recall: bool, seed: int) -> Outcome:
        assert len(rows["label"]) == 5
        return {"old after": -abs(lr - (0.1 if recall else 0.01)) * steps, "new after": 0.0}


def test_a_rehearsal_chooses_a_rate_for_each() -> None:
    shots = {"label": torch.zeros(9, dtype=torch.int64)}
    assert rehearse(Parabola(), shots, seed=0) == {True: 0.1, False: 0.01}


def test_every_shot_recall_and_step_is_tried() -> None:
    asked = []

    class Spy:
        def trained(self, rows: Batch, steps: int, lr: float, recall: bool, seed: int) -> Outcome:
            asked.append((len(rows["label"]), steps, lr, recall))
            return {"new after": float(len(asked))}

    rates = {True: 0.1, False: 0.2}
    outcomes = by_steps(Spy(), lambda shot: rows([3], shot, 0), rates, seed=0, shots=(1, 2), steps=(3, 4))
    assert list(outcomes)[:2] == ["1-shot, recall on, 3 steps", "1-shot, recall on, 4 steps"]
    assert len(outcomes) == 8
    assert asked[2] == (1, 3, 0.2, False)
    assert outcomes["2-shot, recall off, 4 steps"] == {"new after": 8.0}


def test_first_shots_and_stopwatch() -> None:
    few = first_shots({"label": torch.tensor([1, 0, 1, 1, 0]), "row": torch.arange(5)}, 2)
    assert few["row"].tolist() == [1, 4, 0, 2]
    with stopwatch() as passed:
        assert passed == {}
        sum(range(10**5))
    assert 0 < passed["processor seconds"] < 5
    assert 0 < passed["seconds"] < 60
