"""Each method against a loop written by hand, or against what its paper says of it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memreplay import DiverseReservoir, Store
from memreplay.core.loading import batches
from memreplay.core.scores import per_sample_gradients
from memreplay.vision_cls import MLP, digits, methods
from memreplay.vision_cls.learner import Learner, Stage

ROWS = digits().batch(torch.arange(80))
STAGE = Stage(epochs=1, batch_size=10, lr=0.1)


def network() -> MLP:
    torch.manual_seed(0)
    return MLP(1, 8, 10, hidden=(16,))


def flat(values: object) -> Tensor:
    return torch.cat([part.detach().flatten() for part in values])  # type: ignore[attr-defined]


def taught(learner: Learner) -> MLP:
    model = network()
    learner.learn(model, ROWS, STAGE, progress_bar=False)
    return model


def by_hand(store: Store, loss: object, columns: object) -> MLP:
    """``loss(model, batch, store)`` is stepped on; ``columns(logits, batch)`` is stored."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in batches(ROWS, 10, seed=0):
        logits = model(batch["input"]).detach()
        optimizer.zero_grad()
        loss(model, batch, store).backward()  # type: ignore[operator]
        optimizer.step()
        store.add(columns(logits, batch))  # type: ignore[operator]
    return model


def test_er_ace_masks_the_classes_that_are_not_in_the_batch() -> None:
    def loss(model: MLP, batch: dict[str, Tensor], store: Store) -> Tensor:
        logits = model(batch["input"])
        present = batch["label"].unique()
        position = torch.searchsorted(present, batch["label"])
        total = F.cross_entropy(logits[:, present], position)
        if len(store):
            old = store.draw(6)
            total = total + F.cross_entropy(model(old["input"]), old["label"])
        return total

    expected = by_hand(Store(30), loss, lambda logits, batch: batch)
    torch.testing.assert_close(flat(taught(methods.er_ace(30, 6)).parameters()), flat(expected.parameters()))


@pytest.mark.parametrize("labels", [False, True])
def test_der_holds_on_to_logits_and_der_pp_to_labels_as_well(labels: bool) -> None:
    def loss(model: MLP, batch: dict[str, Tensor], store: Store) -> Tensor:
        total = F.cross_entropy(model(batch["input"]), batch["label"])
        if len(store) and labels:
            old = store.draw(6)
            total = total + 0.5 * F.cross_entropy(model(old["input"]), old["label"])
        if len(store):
            old = store.draw(6)
            total = total + 0.3 * F.mse_loss(model(old["input"]), old["logits"])
        return total

    names = ("input", "label") if labels else ("input",)
    expected = by_hand(Store(30), loss, lambda z, batch: {**{name: batch[name] for name in names}, "logits": z})
    learner = methods.der_pp(30, 6, 0.3, 0.5) if labels else methods.der(30, 6, 0.3)
    torch.testing.assert_close(flat(taught(learner).parameters()), flat(expected.parameters()), rtol=1e-4, atol=1e-5)


def test_a_gem_never_steps_against_the_recalled_rows() -> None:
    learner = methods.a_gem(20, 20)
    assert learner.memory is not None
    learner.memory.remember(**digits().batch(torch.arange(80, 120)))
    held = learner.memory.source.rows()  # type: ignore[union-attr]
    model = network()
    start, expected = copy.deepcopy(model), copy.deepcopy(model)
    learner.learn(model, ROWS, Stage(steps=1, batch_size=10, lr=0.1), progress_bar=False)
    batch = next(iter(batches(ROWS, 10, seed=0)))
    gradients = []
    for rows in (batch, held):
        loss = F.cross_entropy(start(rows["input"]), rows["label"])
        gradients.append(flat(torch.autograd.grad(loss, list(start.parameters()))))
    new, old = gradients
    projected = new - min(0.0, float(new @ old)) / float(old @ old) * old
    torch.testing.assert_close(flat(model.parameters()), flat(expected.parameters()) - 0.1 * projected)


def test_gss_compares_gradients_of_the_network_as_it_is_when_rows_arrive() -> None:
    learner, model = methods.gss(20, 5), network()
    learner.learn(model, ROWS, STAGE, progress_bar=False)
    assert learner.memory is not None
    store = learner.memory.source
    assert isinstance(store, Store)
    rows = {name: values[:4] for name, values in ROWS.items()}
    given = store.keep.gradients(rows)  # type: ignore[union-attr]
    dense = per_sample_gradients(model, rows)
    products, squares = given.products(1)
    torch.testing.assert_close(products[0], (dense[1:] @ dense[0]).double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(squares, dense.square().sum(1).double(), rtol=1e-4, atol=1e-5)
    assert len(store) == 20


def test_mir_replays_the_candidates_that_the_step_interferes_with_most() -> None:
    learner, model = methods.mir(30, 3, candidates=30), network()
    past = digits().batch(torch.arange(80, 110))
    assert learner.memory is not None
    learner.memory.remember(**past)
    start = copy.deepcopy(model)
    learner.learn(model, ROWS, Stage(steps=1, batch_size=10, lr=0.1), progress_bar=False)

    def step(model: MLP, inputs: Tensor, labels: Tensor) -> MLP:
        after = copy.deepcopy(model)
        optimizer = torch.optim.SGD(after.parameters(), lr=0.1)
        F.cross_entropy(after(inputs), labels).backward()
        optimizer.step()
        return after

    batch = next(iter(batches(ROWS, 10, seed=0)))
    ahead = step(start, batch["input"], batch["label"])
    with torch.no_grad():
        losses = [F.cross_entropy(m(past["input"]), past["label"], reduction="none") for m in (start, ahead)]
    worst = (losses[1] - losses[0]).argsort(descending=True)[:3]
    inputs, labels = (torch.cat([batch[name], past[name][worst]]) for name in ("input", "label"))
    torch.testing.assert_close(flat(model.parameters()), flat(step(start, inputs, labels).parameters()))


def test_icarl_is_classification_distillation_and_herding() -> None:
    train = digits()
    first, second = (train.of(classes).batch() for classes in ([0, 1, 2], [3, 4]))
    learner, model = methods.icarl(20), network()
    stage = Stage(epochs=2, batch_size=40, lr=0.5)
    learner.learn(model, first, stage, progress_bar=False)
    assert learner.memory is not None
    store = learner.memory.source
    assert isinstance(store, Store)
    held = store.rows()
    assert held["label"].bincount().tolist() in ([7, 7, 6], [7, 6, 7], [6, 7, 7])

    expected = copy.deepcopy(model)
    with torch.no_grad():
        # herding: the first exemplar of a class is the row nearest to its mean
        for label in range(3):
            rows = first["input"][first["label"] == label]
            features = model.features(rows)
            nearest = (features - features.mean(0)).norm(dim=1).argmin()
            assert any(torch.equal(rows[nearest], image) for image in held["input"])
        joined = {name: torch.cat([second[name], held[name]]) for name in ("input", "label")}
        target = torch.full((len(joined["label"]), 5), 0.0)
        target[:, :3] = expected(joined["input"])[:, :3].sigmoid()
        target[joined["label"] == 3, 3] = target[joined["label"] == 4, 4] = 1.0
    learner.learn(model, second, stage, number=1, progress_bar=False)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.5)
    loader = batches({**joined, "target": target}, 40, seed=1)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(expected(batch["input"])[:, :5], batch["target"]).backward()
            optimizer.step()
    torch.testing.assert_close(flat(model.parameters()), flat(expected.parameters()), rtol=1e-4, atol=1e-5)
    assert store.rows()["label"].bincount().tolist() == [4] * 5


def test_gdumb_is_a_network_trained_from_scratch_on_a_balanced_memory() -> None:
    train = digits()
    learner, model = methods.gdumb(20), network()
    start = copy.deepcopy(model)
    for number, classes in enumerate(([0, 1], [2, 3])):
        learner.learn(model, train.of(classes).batch(), STAGE, number=number, progress_bar=False)
    assert learner.memory is not None
    held = learner.memory.source.rows()  # type: ignore[union-attr]
    assert held["label"].bincount().tolist() == [5] * 4
    Learner().learn(start, {name: held[name] for name in ("input", "label")}, STAGE, number=1, progress_bar=False)
    assert torch.equal(flat(model.parameters()), flat(start.parameters()))


def test_ours_replays_labels_and_logits_of_one_draw() -> None:
    def loss(model: MLP, batch: dict[str, Tensor], store: Store) -> Tensor:
        total = F.cross_entropy(model(batch["input"]), batch["label"])
        if len(store):
            old = store.draw(6)
            logits = model(old["input"])
            total = total + F.cross_entropy(logits, old["label"]) + 0.3 * F.mse_loss(logits, old["logits"])
        return total

    keep = DiverseReservoir()
    expected = by_hand(Store(30, keep=keep), loss, lambda logits, batch: {**batch, "logits": logits})
    learner, model = methods.ours(30, 6, 0.3, decay=0.9), network()
    learner.learn(model, ROWS, STAGE, progress_bar=False)
    torch.testing.assert_close(flat(model.parameters()), flat(expected.parameters()), rtol=1e-4, atol=1e-5)
    assert not torch.equal(flat(learner.judged(model).parameters()), flat(model.parameters()))
