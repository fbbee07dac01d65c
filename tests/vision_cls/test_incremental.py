import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memreplay import ClassBalanced, JointCrossEntropy, Nearest, ReplayMemory, Reservoir, Store, TopScore
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


def test_an_outcome_judges_all_classes_seen(tmp_path: Path) -> None:
    train, test = digits("train"), digits("test")
    sessions = Sessions(train.labels, base=6, way=2, shot=5)
    model = network()
    store = Store(60, keep=ClassBalanced(Reservoir()))
    learner = Learner(ReplayMemory(store, mix=JointCrossEntropy(), replay=16), when="after_session")
    stages = [Stage(epochs=5, lr=0.3), Stage(steps=30, batch_size=10, lr=0.1)]
    outcome = learn_sessions(learner, model, sessions, train, test, stages, out=tmp_path, progress_bar=False)
    assert len(outcome.by_session) == 3
    predicted = predict(model, test, sessions[-1].seen)
    assert outcome.last.overall == pytest.approx(100 * (predicted == test.labels).double().mean().item())
    base = test.labels < 6
    assert outcome.last.base == pytest.approx(100 * (predicted == test.labels)[base].double().mean().item())
    assert outcome.memory_bytes == store.nbytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["session-0", "session-1", "session-2"]

    again_model = network()
    again_store = Store(60, keep=ClassBalanced(Reservoir()))
    again_learner = Learner(ReplayMemory(again_store, mix=JointCrossEntropy(), replay=16), when="after_session")
    again = learn_sessions(
        again_learner, again_model, sessions, train, test, stages, out=tmp_path, resume=True, progress_bar=False
    )
    assert again.by_session[1:] == outcome.by_session[1:]
    assert torch.equal(parameters(again_model), parameters(model))
    assert torch.equal(again_store.rows().ids, store.rows().ids)


def test_only_classes_seen_are_predicted() -> None:
    test = digits("test")
    assert set(predict(network(), test, torch.tensor([7, 2])).tolist()) <= {2, 7}
