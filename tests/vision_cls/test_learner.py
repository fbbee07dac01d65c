import copy
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memreplay import (
    EMA,
    CrossEntropy,
    FinalDecay,
    JointCrossEntropy,
    Nearest,
    NearestClassMean,
    ReplayMemory,
    Store,
    TopScore,
    View,
)
from memreplay.core.loading import batches
from memreplay.core.protocols import Sessions
from memreplay.core.scores import per_sample_gradient_norm
from memreplay.vision_cls import MLP, digits
from memreplay.vision_cls.incremental import learn_sessions, predict
from memreplay.vision_cls.learner import Learner, Stage


def network(seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    return MLP(1, 8, 10, hidden=(16,))


def parameters(model: torch.nn.Module) -> Tensor:
    return torch.cat([values.detach().flatten() for values in model.parameters()])


def test_without_a_memory_it_is_a_plain_loop_bit_for_bit() -> None:
    train = digits()
    rows = train.batch(torch.arange(100))
    model = network()
    by_hand = copy.deepcopy(model)
    Learner().learn(model, rows, Stage(epochs=2, batch_size=16, lr=0.1), seed=3)

    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    loader = batches(rows, 16, seed=3 * 1_000_003)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            F.cross_entropy(by_hand(batch["input"]), batch["label"]).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(parameters(model), parameters(by_hand))


def test_er_is_the_published_step_by_hand() -> None:
    """One mean over the batch and the recalled rows; the batch is stored after the step, with the logits before it."""
    rows = digits().batch(torch.arange(60))
    model = network()
    by_hand = copy.deepcopy(model)
    learner = Learner(ReplayMemory(Store(20), mix=JointCrossEntropy(), replay=8), ("input", "label", "logits"))
    learner.learn(model, rows, Stage(epochs=1, batch_size=10, lr=0.1))

    store = Store(20)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for batch in batches(rows, 10, seed=0):
        inputs, labels = batch["input"], batch["label"]
        if len(store):
            recalled = store.draw(8)
            inputs, labels = torch.cat([inputs, recalled["input"]]), torch.cat([labels, recalled["label"]])
        logits = by_hand(inputs)
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        store.add({**batch, "logits": logits[:10].detach()})
    torch.testing.assert_close(parameters(model), parameters(by_hand))
    mine, theirs = learner.memory.source.rows(), store.rows()
    assert torch.equal(mine.ids, theirs.ids)
    torch.testing.assert_close(mine["logits"], theirs["logits"])


@pytest.mark.parametrize(("when", "known_in_first_step"), [("before_session", True), ("after_session", False)])
def test_rows_are_remembered_once_before_or_after_the_session(when: str, known_in_first_step: bool) -> None:
    rows = digits().batch(torch.arange(40))
    memory = ReplayMemory(Store(100), replay=4)
    counts = []
    learner = Learner(memory, when=when)  # type: ignore[arg-type]
    learner.learn(
        network(),
        rows,
        Stage(steps=3, batch_size=8),
        on_step_end=lambda progress: counts.append(len(memory.source)) or {},
    )
    assert counts == [40 if known_in_first_step else 0] * 3
    assert len(memory.source) == 40
    assert torch.equal(memory.source.rows()["label"], rows["label"])


def test_scores_are_remembered_as_the_model_gives_them() -> None:
    rows = digits().batch(torch.arange(30))
    model = network()
    memory = ReplayMemory(Store(100), replay=4)
    Learner(memory, ("input", "label", "feature", "gradient_norm"), when="after_session").learn(
        model, rows, Stage(steps=0)
    )
    held = memory.source.rows()
    torch.testing.assert_close(held["feature"], model.features(rows["input"]))
    # the gradient of the last layer alone, row by row
    frozen = copy.deepcopy(model)
    frozen.body.requires_grad_(False)
    exact = per_sample_gradient_norm(frozen, {"input": rows["input"], "label": rows["label"]})
    torch.testing.assert_close(held["gradient_norm"], exact, rtol=1e-4, atol=1e-5)


def test_recall_by_similarity_goes_by_the_current_features() -> None:
    rows = digits().batch(torch.arange(30))
    asked = []

    class Spy(Nearest):
        def rank(self, pool, k, *, query=None, generator):  # type: ignore[no-untyped-def]
            asked.append(query["feature"])
            return super().rank(pool, k, query=query, generator=generator)

    memory = ReplayMemory(Store(100, keep=TopScore("gradient_norm")), Spy("feature"), replay=4)
    learner = Learner(memory, ("input", "label", "feature", "gradient_norm"), when="before_session", query="feature")
    model = network()
    expected = model.features(rows["input"]).detach()
    learner.learn(model, rows, Stage(steps=1, batch_size=30))
    assert asked[0].sort(0).values.allclose(expected.sort(0).values, atol=1e-6)


def test_stale_features_are_computed_anew_before_a_session() -> None:
    rows = digits().batch(torch.arange(30))
    memory = ReplayMemory(Store(100), replay=0)
    learner = Learner(memory, ("input", "label", "feature"), when="after_session", refresh=True)
    model = network()
    learner.learn(model, rows, Stage(steps=0))
    with torch.no_grad():
        model.body[1].weight.mul_(2)
    learner.learn(model, digits().batch(torch.arange(30, 32)), Stage(steps=0), number=1)
    torch.testing.assert_close(memory.source.rows()["feature"], model.features(memory.source.rows()["input"]))


def test_the_average_follows_every_step_and_is_what_is_judged() -> None:
    rows = digits().batch(torch.arange(60))
    model = network()
    by_hand = copy.deepcopy(model)
    learner = Learner(average=partial(EMA, decay=0.8, warmup=False))
    stage = Stage(epochs=1, batch_size=10, lr=0.1, rate=FinalDecay(0.5))
    learner.learn(model, rows, stage, progress_bar=False)

    optimizer, average = torch.optim.SGD(by_hand.parameters(), lr=0.1), None
    for step, batch in enumerate(batches(rows, 10, seed=0)):
        optimizer.param_groups[0]["lr"] = 0.1 * min(1.0, (1 - step / 6) / 0.5)
        F.cross_entropy(by_hand(batch["input"]), batch["label"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        now = parameters(by_hand)
        average = now if average is None else 0.8 * average + 0.2 * now
    torch.testing.assert_close(parameters(model), parameters(by_hand))
    torch.testing.assert_close(parameters(learner.judged(model)), average)
    assert learner.nbytes == 4 * len(average)
    assert Learner().judged(model) is model


def test_the_average_goes_on_where_a_run_was_stopped(tmp_path: Path) -> None:
    train, test = digits("train"), digits("test")
    sessions = Sessions(train.labels, base=6, way=2, shot=5)
    stages = [Stage(steps=8), Stage(steps=5, batch_size=4)]

    def run(out: Path, **options: object) -> Tensor:
        model, learner = network(), Learner(average=partial(EMA, decay=0.8))
        learn_sessions(learner, model, sessions, train, test, stages, out=out, progress_bar=False, **options)
        return parameters(learner.judged(model))

    assert torch.equal(run(tmp_path), run(tmp_path, resume=True))


def test_interference_is_the_verdict_on_candidates() -> None:
    """Rows are asked for in one draw of all candidates, so that the order of recall tells their scores apart."""
    rows = digits().batch(torch.arange(40))
    asked = []

    class Spy(ReplayMemory):
        def recall(self, query=None, score=None):  # type: ignore[no-untyped-def]
            asked.append(None if score is None else score(past))
            return None

    past = digits().batch(torch.arange(40, 70))
    model = network()
    before, batch = copy.deepcopy(model), next(iter(batches(rows, 40, seed=0)))
    Learner(Spy(Store(100), replay=4), score="interference").learn(model, rows, Stage(batch_size=40, lr=0.5))
    # a plain step on the batch and what it does to the loss of each row
    with torch.no_grad():
        losses = [F.cross_entropy(m(past["input"]), past["label"], reduction="none") for m in (before, model)]
    torch.testing.assert_close(asked[0], losses[1] - losses[0], rtol=1e-3, atol=1e-5)
    assert len(batch["label"]) == 40


@pytest.mark.parametrize(("rows", "expected"), [("new", 30), ("joined", 50), ("memory", 20)])
def test_steps_can_go_through_new_and_held_rows_or_through_the_memory_alone(rows: str, expected: int) -> None:
    store, seen = Store(100), []
    store.add(digits().batch(torch.arange(20)))

    def note(view: View) -> None:
        seen.append(len(view.column("label")))

    memory = ReplayMemory(store, mix=CrossEntropy(), replay=0)
    new = digits().batch(torch.arange(20, 50))
    Learner(memory, note, rows=rows).learn(network(), new, Stage(batch_size=7), progress_bar=False)  # type: ignore[arg-type]
    assert sum(seen) == expected


def test_a_memory_to_learn_from_must_not_be_empty() -> None:
    new = digits().batch(torch.arange(20, 50))
    with pytest.raises(ValueError, match="rows is 'memory', which is empty; when is 'each_step'"):
        Learner(ReplayMemory(Store(9), mix=CrossEntropy(), replay=0), rows="memory").learn(network(), new, Stage())


def test_a_fresh_learner_forgets_what_the_network_learned_before() -> None:
    first, second = digits().batch(torch.arange(40)), digits().batch(torch.arange(40, 80))
    model = network()
    start = copy.deepcopy(model)
    learner = Learner(fresh=True)
    learner.learn(model, first, Stage(), progress_bar=False)
    assert not torch.equal(parameters(model), parameters(start))
    learner.learn(model, second, Stage(), number=1, progress_bar=False)
    Learner().learn(start, second, Stage(), number=1, progress_bar=False)
    assert torch.equal(parameters(model), parameters(start))


def test_the_memory_can_be_read_out_instead_of_the_head() -> None:
    train, test = digits("train"), digits("test")
    known = train.of([1, 4, 7])
    model, store = network(), Store(60)
    learner = Learner(ReplayMemory(store, replay=4), readout=NearestClassMean("euclidean"))
    learner.learn(model, known.batch(), Stage(lr=0.2), progress_bar=False)
    with torch.no_grad():
        features, rows = model.features(test.batch()["input"]), store.rows()
        held = model.features(rows["input"])
        means = torch.stack([held[rows["label"] == label].mean(0) for label in (1, 4, 7)])
    nearest = torch.tensor([1, 4, 7])[torch.cdist(features, means).argmin(1)]
    assert torch.equal(predict(learner.judged(model), test, torch.arange(10)), nearest)
