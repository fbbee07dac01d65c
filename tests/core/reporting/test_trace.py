from collections import Counter
from pathlib import Path

import pytest
import torch

from memreplay import (
    Batch,
    ClassBalanced,
    GaussianStore,
    Nearest,
    ReplayCrossEntropy,
    ReplayMemory,
    Reservoir,
    Rows,
    Store,
    Uniform,
)
from memreplay.core.batch import concat
from memreplay.core.mixers import CrossEntropy, LogitDistillation, joint_forward
from memreplay.core.reporting import Trace

MIX = CrossEntropy() + ReplayCrossEntropy("labels") + LogitDistillation("logits")
DRAWS = {"labels": Nearest("input"), "logits": Uniform()}


def memory_of(trace: Trace | None) -> ReplayMemory:
    return ReplayMemory(Store(30, keep=ClassBalanced(Reservoir())), DRAWS, MIX, {"labels": 4, "logits": 6}, trace=trace)


def steps(memory: ReplayMemory, model: torch.nn.Linear, n: int, seed: int) -> list[dict[str, list[int]]]:
    """Trains for ``n`` steps; the ids recalled in each, by draw."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(n):
        batch = {"input": torch.randn(5, 3, generator=generator), "label": torch.randint(4, (5,), generator=generator)}
        recalled = memory.recall(query={"input": batch["input"]})
        found.append({name: rows.ids.tolist() for name, rows in (recalled or {}).items()})
        new, old = joint_forward(model, batch, recalled)
        memory.loss(new, old).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad  # type: ignore[operator]
                parameter.grad = None
        memory.remember(**batch, logits=new.outputs["logits"])
    return found


def model_of() -> torch.nn.Linear:
    model = torch.nn.Linear(3, 4)
    with torch.no_grad():
        model.weight.fill_(0.1)
        model.bias.zero_()
    return model


@pytest.mark.parametrize("pending", [0, 5, 10**6])
def test_recalls_are_those_of_the_run(pending: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memreplay.core.reporting.trace._PENDING", pending)
    trace = Trace()
    found = steps(memory_of(trace), model_of(), 30, seed=0)
    for name in ("labels", "logits"):
        counted = Counter(row for step in found for row in step.get(name, []))
        recalls = trace.recalls(name)
        assert dict(zip(recalls.ids.tolist(), recalls.counts.tolist(), strict=True)) == counted
        assert recalls.counts.tolist() == sorted(counted.values(), reverse=True)
        last = {row: step for step, drawn in enumerate(found) for row in drawn.get(name, [])}
        assert dict(zip(recalls.ids.tolist(), recalls.last.tolist(), strict=True)) == last
        assert recalls.scores.isnan().all() == (name == "logits")
    both = Counter(row for step in found for rows in step.values() for row in rows)
    assert trace.counts(torch.arange(-1, 200)).tolist() == [both[row] for row in range(-1, 200)]
    assert trace.summary()["logits"] == {
        "selector": "Uniform()",
        "times": 29,
        "rows": sum(len(step.get("logits", [])) for step in found),
        "distinct": len({row for step in found for row in step.get("logits", [])}),
    }


def test_why_a_row_was_recalled() -> None:
    store, trace = Store(9), Trace()
    memory = ReplayMemory(store, {"near": Nearest("input"), "any": Uniform()}, CrossEntropy(), {"near": 1, "any": 9})
    memory.trace = trace
    memory.remember(input=torch.tensor([[1.0, 0.0], [0.0, 1.0]]), label=torch.tensor([0, 1]))
    memory.recall(query={"input": torch.tensor([[2.0, 0.0]])})
    memory.step = 7
    memory.recall(query={"input": torch.tensor([[1.0, 1.0]])})
    told = {entry["draw"]: entry for row in (0, 1) for entry in trace.why(row) if row == 0}
    assert told["any"] == {"draw": "any", "selector": "Uniform()", "times": 2, "score": None, "last": 7}
    assert told["near"]["selector"] == str(Nearest("input"))
    assert told["near"]["times"] == 2
    assert told["near"]["score"] == pytest.approx((1 + 0.5**0.5) / 2)
    assert trace.why(99) == []
    with pytest.raises(KeyError, match=r"name is 'nearest'; expected one of the draws \['any', 'near'\]"):
        trace.recalls("nearest")


def test_a_run_with_a_trace_is_the_run_without() -> None:
    models = model_of(), model_of()
    assert steps(memory_of(None), models[0], 20, seed=3) == steps(memory_of(Trace()), models[1], 20, seed=3)
    assert torch.equal(models[0].weight, models[1].weight)


@pytest.mark.parametrize("through", ["state", "files"])
def test_it_is_saved_and_goes_on(through: str, tmp_path: Path) -> None:
    whole, model = memory_of(Trace()), model_of()
    steps(whole, model, 12, seed=0)
    steps(whole, model, 9, seed=1)

    first, model = memory_of(Trace()), model_of()
    steps(first, model, 12, seed=0)
    second, untraced = memory_of(Trace()), memory_of(None)
    second.recall()
    for memory in (second, untraced):
        if through == "state":
            memory.load_state_dict(first.state_dict())
        else:
            first.save(tmp_path)
            memory.load(tmp_path)
    steps(second, model, 9, seed=1)
    assert whole.trace is not None
    assert second.trace is not None
    ours, theirs = second.trace.state_dict(), whole.trace.state_dict()
    assert ours["meta"] == theirs["meta"]
    assert ours["tensors"].keys() == theirs["tensors"].keys()
    for name, values in ours["tensors"].items():
        torch.testing.assert_close(values, theirs["tensors"][name], equal_nan=True, rtol=1e-12, atol=0)

    assert "trace" not in untraced.state_dict()["meta"]
    second.load_state_dict(untraced.state_dict())
    assert second.trace.summary() == {}
    damaged = first.state_dict()
    del damaged["tensors"]["trace.0.ids"]
    with pytest.raises(ValueError, match="the state of the trace is damaged: KeyError"):
        second.load_state_dict(damaged)


def test_what_a_memory_makes_up_has_one_line() -> None:
    trace = Trace()
    memory = ReplayMemory(GaussianStore(), replay=6, trace=trace)
    memory.remember(feature=torch.randn(8, 2), label=torch.arange(8) % 2)
    memory.recall()
    recalls = trace.recalls()
    assert (recalls.ids.tolist(), recalls.counts.tolist()) == ([-1], [6])


def test_what_was_offered_is_counted_too() -> None:
    trace = Trace()
    memory = memory_of(trace)
    steps(memory, model_of(), 30, seed=0)
    store = memory.source
    assert isinstance(store, Store)
    table = trace.turnover.table(store.rows()["label"])
    assert sum(kept.offered for kept in table.values()) == 150
    assert sum(kept.held for kept in table.values()) == 30


def test_a_memory_that_held_rows_before() -> None:
    memory = memory_of(None)
    steps(memory, model_of(), 10, seed=0)
    memory.trace = Trace()
    steps(memory, model_of(), 30, seed=1)
    assert isinstance(memory.source, Store)
    rows = memory.source.rows()
    table = memory.trace.turnover.table(rows["label"], rows.ids)
    assert sum(kept.offered for kept in table.values()) == 150
    assert all(kept.gone >= 0 for kept in table.values())
    assert sum(kept.held for kept in table.values()) == int((rows.ids >= 50).sum())


def test_an_empty_trace() -> None:
    assert Trace().counts(torch.arange(3)).tolist() == [0, 0, 0]
    assert len(Trace().recalls().ids) == 0


class TwoProcesses:
    """What a memory asks of its replicas, as one of two processes that have the same batch."""

    def gather(self, batch: Batch) -> Batch:
        return concat([batch, batch])

    def share(self, rows: Rows) -> Rows:
        half = slice(0, len(rows) // 2)
        return Rows({name: values[half] for name, values in rows.items()}, rows.slots[half], rows.ids[half])


def test_on_several_processes_draws_and_batches_count_as_a_whole() -> None:
    trace = Trace()
    memory = ReplayMemory(Store(50), replay=4, trace=trace)
    memory._replicas = TwoProcesses()  # type: ignore[assignment]
    memory.remember(label=torch.tensor([0, 0, 1]))
    recalled = memory.recall()
    assert recalled is not None
    assert len(recalled["replay"]) == 2
    assert int(trace.recalls().counts.sum()) == 4
    assert {of: kept.offered for of, kept in trace.turnover.table(torch.empty(0)).items()} == {0: 4, 1: 2}
