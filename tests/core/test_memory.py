from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from memreplay.core.memory import Loss, ReplayMemory
from memreplay.core.mixers import (
    AGem,
    CrossEntropy,
    FeatureNoise,
    JointCrossEntropy,
    LinearSchedule,
    LogitDistillation,
    MeanSquaredError,
    ReplayCrossEntropy,
    ReplayMeanSquaredError,
    UncertaintyWeighting,
    View,
    joint_forward,
)
from memreplay.core.readout import KNearest
from memreplay.core.retrievers.nearest import Nearest
from memreplay.core.retrievers.rescored import Rescored
from memreplay.core.selection import ClassBalanced, Uniform
from memreplay.core.stores import Store
from memreplay.core.stores.gaussian import GaussianStore
from memreplay.core.stores.keeping import Reservoir


def batch_of(n: int = 8, seed: int = 0, classes: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "input": torch.randn(n, 4, generator=generator),
        "label": torch.randint(classes, (n,), generator=generator),
    }


def linear(seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(4, 3)


def same(a: object, b: object) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


# -- recalling ------------------------------------------------------------------------------------------------------


def test_an_empty_memory_recalls_nothing():
    assert ReplayMemory(Store(10)).recall() is None
    assert ReplayMemory().recall() is None
    memory = ReplayMemory(Store(10), replay=0)
    memory.remember(**batch_of())
    assert len(memory.source) == 8
    assert memory.recall() is None


def test_draws_have_names_sizes_and_selectors_of_their_own():
    memory = ReplayMemory(
        Store(100),
        draw={"near": Nearest("input", metric="euclidean"), "any": Uniform()},
        mix=CrossEntropy() + ReplayCrossEntropy("any"),
        replay={"near": 2, "any": 5},
    )
    data = batch_of(50)
    memory.remember(**data)
    query = {"input": data["input"][7:8] + 1e-3}
    recalled = memory.recall(query=query)
    assert {name: len(rows) for name, rows in recalled.items()} == {"near": 2, "any": 5}
    assert torch.equal(recalled["near"]["input"][0], data["input"][7])
    nearest = (data["input"] - query["input"]).norm(dim=1).argsort()[:2]
    assert recalled["near"].ids.tolist() == nearest.tolist()


def test_two_draws_are_independent():
    memory = ReplayMemory(Store(100), mix=CrossEntropy(), replay={"labels": 5, "logits": 5})
    memory.remember(**batch_of(100))
    recalled = memory.recall()
    assert recalled["labels"].ids.tolist() != recalled["logits"].ids.tolist()


def test_a_score_fills_in_rescored():
    memory = ReplayMemory(Store(100), draw=Rescored(Uniform(), 100), replay=3)
    data = batch_of(60)
    memory.remember(**data)
    rows = memory.recall(score=lambda rows: rows["input"].sum(1))["replay"]
    assert rows.ids.tolist() == data["input"].sum(1).argsort(descending=True)[:3].tolist()
    with pytest.raises(ValueError, match="score was given, but none of the draws takes one"):
        ReplayMemory(memory.source).recall(score=len)


def test_transforms_change_recalled_rows_but_not_the_memory():
    torch.manual_seed(3)
    before = torch.get_rng_state()

    def double(rows, generator):
        return {"input": 2 * rows["input"]}

    store = Store(10)
    memory = ReplayMemory(store, transform=[FeatureNoise(0.0, "input"), double], replay=10)
    memory.remember(**batch_of())
    rows = memory.recall()["replay"]
    assert torch.equal(rows["input"], 2 * store.rows(rows.ids)["input"])
    noisy = ReplayMemory(store, transform=FeatureNoise(1.0, "input"), seed=1)
    again = ReplayMemory(store, transform=FeatureNoise(1.0, "input"), seed=1)
    noise = [m.recall()["replay"] for m in (noisy, again)]
    noise = [rows["input"] - store.rows(rows.ids)["input"] for rows in noise]
    torch.testing.assert_close(noise[0], noise[1])
    assert noise[0].std() > 0.5
    assert torch.equal(torch.get_rng_state(), before)


def test_a_memory_of_statistics_recalls_made_up_rows():
    memory = ReplayMemory(GaussianStore(), replay=6)
    assert memory.recall() is None
    memory.remember(feature=torch.randn(20, 4), label=torch.arange(20) % 2)
    rows = memory.recall()["replay"]
    assert rows["feature"].shape == (6, 4)
    assert rows.ids.tolist() == [-1] * 6


# -- the loss -------------------------------------------------------------------------------------------------------


def test_loss_sums_named_terms_and_schedules_follow_the_step():
    memory = ReplayMemory(
        Store(50), mix=CrossEntropy() + LinearSchedule(0.0, 1.0, steps=2) * ReplayCrossEntropy(), replay=8
    )
    memory.remember(**batch_of(20, seed=1))
    model, weights = linear(), []
    for _ in range(3):
        recalled = memory.recall()
        new, old = joint_forward(model, batch_of(), recalled)
        with torch.no_grad():
            memory.loss(new, old)  # evaluation does not count
        loss = memory.loss(new, old)
        plain = nn.functional.cross_entropy(model(recalled["replay"]["input"]), recalled["replay"]["label"])
        weights.append((loss.terms["replay_cross_entropy"] / plain).item())
        assert loss.total.item() == pytest.approx(sum(v.item() for v in loss.terms.values()))
    assert weights == pytest.approx([0.0, 0.5, 1.0])
    assert memory.step == 3
    floats = loss.floats()
    assert list(floats) == ["loss", "cross_entropy", "replay_cross_entropy"]
    assert floats["loss"] == pytest.approx(loss.total.item())


def test_a_step_without_terms_is_no_step():
    memory = ReplayMemory(Store(5), mix=ReplayCrossEntropy())
    model = linear()
    loss = memory.loss(*joint_forward(model, batch_of(), memory.recall()))
    loss.backward()
    assert loss.total.item() == 0
    assert model.weight.grad is None


def test_der_plus_plus_is_its_formula():
    model = linear()
    memory = ReplayMemory(
        Store(50),
        mix=CrossEntropy() + 0.5 * ReplayCrossEntropy("labels") + 0.1 * LogitDistillation("logits"),
        replay={"labels": 6, "logits": 7},
    )
    past = batch_of(30, seed=1)
    memory.remember(**past, logits=torch.randn(30, 3))
    batch, recalled = batch_of(), memory.recall()
    total = memory.loss(*joint_forward(model, batch, recalled)).total
    cross_entropy = nn.functional.cross_entropy
    a, b = recalled["labels"], recalled["logits"]
    expected = cross_entropy(model(batch["input"]), batch["label"]) + 0.5 * cross_entropy(model(a["input"]), a["label"])
    expected = expected + 0.1 * nn.functional.mse_loss(model(b["input"]), b["logits"])
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("mix", [CrossEntropy() + ReplayCrossEntropy(), JointCrossEntropy()])
@pytest.mark.parametrize("how", ["no source", "an empty source", "replay=0"])
def test_without_recall_a_step_is_a_plain_step_bit_for_bit(mix, how):
    memory = ReplayMemory(None if how == "no source" else Store(9), mix=mix, replay=0 if how == "replay=0" else 4)
    if how == "replay=0":
        memory.remember(**batch_of(seed=1))
    model, plain, batch = linear(), linear(), batch_of()
    nn.functional.cross_entropy(plain(batch["input"]), batch["label"]).backward()
    before = torch.get_rng_state()
    memory.loss(*joint_forward(model, batch, memory.recall())).backward()
    memory.remember(**batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model.weight.grad, plain.weight.grad)
    assert torch.equal(model.bias.grad, plain.bias.grad)


def test_a_gem_through_backward_projects_the_gradient():
    memory = ReplayMemory(Store(50), replay=8, project=AGem())
    memory.remember(**batch_of(8, seed=1))
    found = 0
    for seed in range(20):
        model, batch, recalled = linear(seed), batch_of(seed=seed + 2), memory.recall()
        new, old = joint_forward(model, batch, recalled)
        memory.loss(new, old).backward()
        got = torch.cat([p.grad.flatten() for p in model.parameters()])

        def gradient(rows, model=model):
            loss = nn.functional.cross_entropy(model(rows["input"]), rows["label"])
            return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

        g, r = gradient(batch), gradient(recalled["replay"])
        if g @ r < 0:
            found += 1
            g = g - (g @ r) / (r @ r) * r
        torch.testing.assert_close(got, g)
    assert found > 2


def test_a_gem_without_anything_recalled_is_plain():
    memory, model, batch = ReplayMemory(Store(5), project=AGem()), linear(), batch_of()
    memory.loss(*joint_forward(model, batch, memory.recall())).backward()
    expected = torch.autograd.grad(nn.functional.cross_entropy(model(batch["input"]), batch["label"]), model.weight)
    assert torch.equal(model.weight.grad, expected[0])


def test_mir_recalls_what_the_step_interferes_with():
    model = linear()
    memory = ReplayMemory(Store(100), draw=Rescored(Uniform(), 100), replay=4)
    past, batch = batch_of(40, seed=1), batch_of()
    memory.remember(**past)
    loss = nn.functional.cross_entropy(model(batch["input"]), batch["label"])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    ahead = {n: p.detach() - 0.5 * g for (n, p), g in zip(model.named_parameters(), gradients, strict=True)}
    each = partial(nn.functional.cross_entropy, reduction="none")

    def interference(rows):
        with torch.no_grad():
            after = functional_call(model, ahead, (rows["input"],))
            return each(after, rows["label"]) - each(model(rows["input"]), rows["label"])

    rows = memory.recall(score=interference)["replay"]
    assert rows.ids.tolist() == interference(past).argsort(descending=True)[:4].tolist()


# -- remembering, freezing, predicting --------------------------------------------------------------------------------


def test_remember_detaches_and_a_frozen_memory_stays_as_it_is():
    model, memory = linear(), ReplayMemory(Store(100), mix=CrossEntropy(), replay=5)
    batch = batch_of()
    memory.remember(**batch, logits=model(batch["input"]))
    assert not memory.recall()["replay"]["logits"].requires_grad
    memory.freeze()
    before = memory.source.state_dict()
    memory.remember(**batch, logits=model(batch["input"]))
    assert same(memory.source.state_dict(), before)
    assert memory.recall() is not None
    memory.unfreeze()
    memory.remember(**batch, logits=model(batch["input"]))
    memory.remember()
    assert memory.source.seen == 16


def test_predict_reads_the_rows_held():
    memory = ReplayMemory(Store(100))
    with pytest.raises(ValueError, match="the memory is empty"):
        memory.predict(torch.zeros(1, 2))
    memory.remember(feature=torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.9, 0.1]]), label=torch.tensor([4, 6, 6]))
    for readout in (KNearest(1), KNearest(3)):
        prediction = memory.predict(torch.tensor([[0.1, 0.9], [1.0, 0.1]]), by=readout)
        assert prediction.labels.tolist() == [4, 6]
        torch.testing.assert_close(prediction.probabilities.sum(1), torch.ones(2))


# -- state ------------------------------------------------------------------------------------------------------------


def full_memory() -> ReplayMemory:
    memory = ReplayMemory(
        Store(20, keep=ClassBalanced(Reservoir()), seed=5),
        mix=CrossEntropy() + LinearSchedule(0, 1, 10) * UncertaintyWeighting(ReplayCrossEntropy()),
        replay=4,
        transform=FeatureNoise(0.1, "input"),
    )
    memory.remember(**batch_of(50))
    return memory


@pytest.mark.parametrize("through", ["state_dict", "files"])
def test_a_restored_memory_goes_on_bit_for_bit(through, tmp_path):
    memory, other = full_memory(), full_memory()
    new, old = joint_forward(linear(), batch_of(), memory.recall())
    memory.loss(new, old).backward()
    with torch.no_grad():
        memory.mix.terms[1].term.log_variance["replay_cross_entropy"].fill_(0.3)
    memory.freeze()
    if through == "files":
        memory.save(tmp_path)
        other.load(tmp_path)
        assert len(Store.load(tmp_path)) == 20
    else:
        other.load_state_dict(memory.state_dict())
    assert same(other.state_dict(), memory.state_dict())
    assert other.frozen
    assert other.step == 1
    for _ in range(3):
        a, b = memory.recall()["replay"], other.recall()["replay"]
        assert torch.equal(a["input"], b["input"])
        assert torch.equal(a.ids, b.ids)
    for m in (memory, other):
        m.unfreeze()
        m.remember(**batch_of(40, seed=9))
    assert same(other.state_dict(), memory.state_dict())


def test_statistics_and_no_source_are_saved_too(tmp_path):
    for make in (lambda: ReplayMemory(GaussianStore()), ReplayMemory):
        memory, other = make(), make()
        memory.remember(feature=torch.randn(9, 4), label=torch.arange(9) % 2)
        memory.step = 5
        memory.save(tmp_path / "m")
        other.load(tmp_path / "m")
        assert same(other.state_dict(), memory.state_dict())
    with pytest.raises(ValueError, match="the state has source"):
        ReplayMemory(Store(5)).load_state_dict(ReplayMemory().state_dict())
    with pytest.raises(FileNotFoundError, match="no save"):
        ReplayMemory(Store(5)).load(tmp_path / "nowhere")


def test_checkpoints_of_accelerate_hold_the_memory(tmp_path):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    memory, other = full_memory(), full_memory()
    memory.attach(accelerator)
    memory.attach(accelerator)  # once more changes nothing
    model = accelerator.prepare(linear())
    memory.recall()
    accelerator.save_state(str(tmp_path / "state"))
    expected = memory.state_dict()
    memory.recall()
    memory.remember(**batch_of(9, seed=4))
    accelerator.load_state(str(tmp_path / "state"))
    assert same(memory.state_dict(), expected)
    other.load(tmp_path / "state" / "memory")
    assert same(other.state_dict(), expected)
    assert sum(1 for _ in (tmp_path / "state").glob("memory/data-*")) == 1
    other.attach(accelerator, name="other")
    accelerator.save_state(str(tmp_path / "state"))
    assert len(Store.load(tmp_path / "state" / "other")) == 20
    other.detach()
    accelerator.save_state(str(tmp_path / "without"))
    assert [path.name for path in (tmp_path / "without").iterdir() if path.is_dir()] == ["memory"]
    loss = memory.loss(*joint_forward(model, batch_of(), memory.recall()))
    assert loss.accelerator is accelerator
    loss.backward()
    assert model.weight.grad is not None


# -- whole loops --------------------------------------------------------------------------------------------------


def test_the_ten_lines_of_the_readme():
    from accelerate import Accelerator

    accelerator, model, loader = Accelerator(cpu=True), linear(), [batch_of(seed=i) for i in range(30)]
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    store = Store(200, keep=ClassBalanced(Reservoir()))

    memory = ReplayMemory(store, draw=Uniform(), mix=CrossEntropy() + 0.5 * ReplayCrossEntropy(), replay=32)
    memory.attach(accelerator)
    for batch in loader:
        recalled = memory.recall()
        new, old = joint_forward(model, batch, recalled)
        loss = memory.loss(new, old)
        loss.backward(accelerator)
        optimizer.step()
        optimizer.zero_grad()
        memory.remember(**batch, logits=new.outputs["logits"])

    assert len(store) == 200
    assert sorted(loss.terms) == ["cross_entropy", "replay_cross_entropy"]
    assert set(store.draw(5).keys()) == {"input", "label", "logits"}


def test_replay_keeps_a_regression_on_the_part_of_the_input_seen_first():
    """A table without classes: y = sin(3 x), first on the left half of the axis, then on the right."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(400, 1, generator=generator) * 2 - 1
    x = x[x[:, 0].argsort()]
    y = torch.sin(3 * x)
    forgotten = {}
    for replay in (0, 20):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        memory = ReplayMemory(Store(50), mix=MeanSquaredError() + ReplayMeanSquaredError(), replay=replay)
        for half in (slice(0, 200), slice(200, 400)):
            for step in range(150):
                index = torch.randint(200, (20,), generator=torch.Generator().manual_seed(step))
                batch = {"x": x[half][index], "target": y[half][index]}
                new, old = joint_forward(model, batch, memory.recall(), lambda m, b: {"output": m(b["x"])})
                memory.loss(new, old).backward()
                optimizer.step()
                optimizer.zero_grad()
                memory.remember(**batch)
        with torch.no_grad():
            forgotten[replay] = nn.functional.mse_loss(model(x[:200]), y[:200]).item()
    assert forgotten[20] < 0.05
    assert forgotten[20] < forgotten[0] / 4


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replay": -1}, r"replay\['replay'\] is -1"),
        ({"replay": {"a": 1.5}}, r"replay\['a'\] is 1.5"),
        ({"replay": {"a": 1}, "draw": {"b": Uniform()}}, r"draw names \['b'\] but replay names \['a'\]"),
        ({"replay": {"a": 1}}, r"mix reads the draws \['replay'\]; replay has only \['a'\]"),
        ({"mix": ReplayCrossEntropy(), "project": AGem()}, "without a term on new rows alone"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        ReplayMemory(Store(5), **settings)


def test_a_transform_that_loses_rows_is_refused():
    memory = ReplayMemory(Store(50), transform=lambda rows, generator: {"input": rows["input"][:1]})
    memory.remember(**batch_of())
    with pytest.raises(ValueError, match="column 'input' has shape"):
        memory.recall()


def test_a_source_that_cannot_be_read_cannot_predict():
    class Blind:
        def __len__(self):
            return 1

    with pytest.raises(ValueError, match=r"expected one with rows\(\) or with means and classes"):
        ReplayMemory(Blind()).predict(torch.zeros(1, 2))


def test_loss_stands_alone():
    value = torch.tensor(2.0, requires_grad=True)
    loss = Loss({"a": value}, value * 1)
    loss.backward()
    assert value.grad.item() == 1
    assert View({}, {}).weights is None
