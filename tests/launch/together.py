"""Checks on several processes that need no comparison with one: checkpoints, disagreement, transport.

torchrun --nproc_per_node 2 together.py OUT
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import replicated
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from memreplay.core.batch import concat, jagged, take
from memreplay.core.checkpoint import Progress
from memreplay.core.distributed import Replicas
from memreplay.core.loading import batches
from memreplay.core.memory import ReplayMemory
from memreplay.core.mixers import CrossEntropy, LogitDistillation, ReplayCrossEntropy, View, joint_forward
from memreplay.core.selection import ClassBalanced
from memreplay.core.stores import Ragged, Rows, Store
from memreplay.core.stores.keeping import Fifo, Reservoir
from memreplay.core.training import fit, new_accelerator


def tensors_of(memory: ReplayMemory) -> dict[str, torch.Tensor]:
    return memory.source.state_dict()["tensors"]


def gathers_rows_of_any_kind(replicas: Replicas) -> None:
    rank, size = replicas.rank, replicas.size
    mine = {
        "number": torch.arange(rank + 1),  # rank 0 has one row, rank 1 two, ...
        "flag": torch.full((rank + 1, 2), rank % 2 == 1),
        "half": torch.full((rank + 1,), rank, dtype=torch.bfloat16),
        "nothing": torch.zeros(rank + 1, 0),
        "tokens": jagged([[rank] * i for i in range(rank + 1)]),
    }
    found = replicas.gather(mine)
    ranks = [rank for rank in range(size) for _ in range(rank + 1)]
    assert found["number"].tolist() == [i for rank in range(size) for i in range(rank + 1)]
    assert found["flag"].tolist() == [[rank % 2 == 1] * 2 for rank in ranks]
    assert found["half"].tolist() == ranks
    assert found["half"].dtype == torch.bfloat16
    assert found["nothing"].shape == (len(ranks), 0)
    assert [row.tolist() for row in found["tokens"].unbind()] == [
        [rank] * i for rank in range(size) for i in range(rank + 1)
    ]
    empty = {"number": torch.arange(0)}
    assert len(replicas.gather(empty)["number"]) == 0


def takes_the_choice_of_rank_0(replicas: Replicas) -> None:
    n = 3 - replicas.rank % 2
    columns = {"x": torch.full((n, 2), float(replicas.rank)), "tokens": jagged([[replicas.rank] * i for i in range(n)])}
    slots = torch.arange(n) + replicas.rank
    rows = replicas.from_main(Rows(columns, slots, slots, weights=slots.float()))
    assert rows["x"].tolist() == [[0.0, 0.0]] * 3
    assert [row.tolist() for row in rows["tokens"].unbind()] == [[], [0], [0, 0]]
    assert rows.slots.tolist() == [0, 1, 2]
    assert rows.weights.tolist() == [0, 1, 2]
    assert rows.scores is None


class Traffic:
    """Counts the bytes that this process sends to each other one, within a ``with`` block."""

    def __enter__(self) -> Traffic:
        self.sent = 0
        self.gather = dist.all_gather_into_tensor
        dist.all_gather_into_tensor = self.counted
        return self

    def __exit__(self, *_: object) -> None:
        dist.all_gather_into_tensor = self.gather

    def counted(self, found: torch.Tensor, mine: torch.Tensor) -> None:
        self.sent += mine.nbytes
        self.gather(found, mine)


class Unasked:
    """A source of which only `add` is known."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.store = Store(*arguments, **settings)
        self.add = self.store.add


def stream(rank: int, step: int) -> dict[str, torch.Tensor]:
    """The rows of one process at one step; no two processes have as many."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    lengths = torch.randint(4, (20 + 3 * rank,), generator=generator).tolist()
    return {
        "feature": torch.randn(len(lengths), 64, generator=generator),
        "label": torch.randint(5, (len(lengths),), generator=generator),
        "words": torch.zeros(len(lengths), 0),
        "items": jagged([torch.rand(4, 8, generator=generator)[:n] for n in lengths]),
    }


def sends_only_the_rows_that_stay(accelerator: Accelerator) -> None:
    """A store that has seen many rows is offered few; it holds what one process would hold."""
    rank, size = accelerator.process_index, accelerator.num_processes
    for keep, share in ((Reservoir(), 0.2), (ClassBalanced(Reservoir()), 0.2), (Fifo(), 1.0)):
        settings = {"keep": keep, "columns": {"items": Ragged()}}
        alone, memory, plain = Store(50, **settings), ReplayMemory(Store(50, **settings)), Unasked(50, **settings)
        memory.attach(accelerator)
        replicas = Replicas(accelerator)
        few, all_rows = Traffic(), Traffic()
        few.total = all_rows.total = 0
        for step in range(150):
            batch = stream(rank, step)
            with few:
                memory.remember(**batch)
            with all_rows:
                replicas.add(plain, batch)
            alone.add(concat([stream(other, step) for other in range(size)]))
            if step >= 50:
                few.total += few.sent
                all_rows.total += all_rows.sent
        expected = alone.state_dict()["tensors"]
        for store in (memory.source, plain.store):
            found = store.state_dict()["tensors"]
            assert all(torch.equal(found[name], values) for name, values in expected.items()), keep
        if share < 1:
            assert few.total < share * all_rows.total, (keep, few.total, all_rows.total)
        else:
            assert few.total == all_rows.total
        memory.detach()


def error_of(call: Callable[..., object], *arguments: Any, **columns: torch.Tensor) -> str | None:
    try:
        call(*arguments, **columns)
    except ValueError as error:
        return str(error)
    return None


def refuses_what_one_process_refuses(accelerator: Accelerator) -> None:
    """Numbers that are not finite in a row that stays, or another shape: an error everywhere, and nothing changes."""
    for keep in (Reservoir(), ClassBalanced(Reservoir())):
        memory, alone = ReplayMemory(Store(4, keep=keep)), Store(4, keep=keep)
        memory.attach(accelerator)
        good = {"x": torch.ones(30), "label": torch.zeros(30, dtype=torch.int64)}
        errors = []
        for step in range(40):
            rows = {**good, "x": good["x"] * torch.nan} if step % 2 else good
            before, _ = tensors_of(memory), alone.state_dict()  # after which a store looks at every row once
            errors.append(error_of(memory.remember, **rows))
            assert errors[-1] == error_of(alone.add, concat([rows] * accelerator.num_processes))
            if errors[-1]:
                assert all(torch.equal(values, before[name]) for name, values in tensors_of(memory).items())
        assert errors.count(None) < 40
        expected = alone.state_dict()["tensors"]
        assert all(torch.equal(values, expected[name]) for name, values in tensors_of(memory).items())
        assert "column 'x'" in error_of(memory.remember, **{**good, "x": torch.ones(30, 2)})
        memory.detach()


class Learner:
    """Model, optimizer and memory, prepared for some processes."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        model, optimizer, self.memory = replicated.make("uniform")
        self.memory.attach(accelerator)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    def step(self) -> None:
        """One step on all rows: the same on every process, and so for any number of processes."""
        batch = replicated.data()
        views = joint_forward(self.model, batch, self.memory.recall(), replicated.forward)
        self.memory.loss(*views).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.memory.source.seen < 55:  # each process gives its part
            index = torch.arange(55).chunk(self.accelerator.num_processes)[self.accelerator.process_index]
            self.memory.remember(**take(batch, index))

    def state(self) -> dict[str, torch.Tensor]:
        """Everything, copied, by names that do not depend on the number of processes."""
        weights = self.accelerator.unwrap_model(self.model).state_dict()
        momentum = self.optimizer.state_dict()["state"]
        return {
            **{f"model.{name}": values.clone() for name, values in weights.items()},
            **{f"momentum.{i}": state["momentum_buffer"].clone() for i, state in momentum.items()},
            **{f"memory.{name}": values for name, values in tensors_of(self.memory).items()},
        }

    def has(self, expected: dict[str, torch.Tensor]) -> bool:
        """Whether its state is this one, bit for bit."""
        found = self.state()
        return found.keys() == expected.keys() and all(torch.equal(found[n], values) for n, values in expected.items())

    def close(self) -> None:
        self.memory.detach()
        self.accelerator.free_memory()


def restores_what_accelerate_saved(accelerator: Accelerator, out: Path) -> None:
    learner = Learner(accelerator)
    for _ in range(3):
        learner.step()
    before = learner.state()
    accelerator.save_state(str(out / "state"))
    accelerator.load_state(str(out / "state"))  # at once: no process may still be writing
    assert learner.has(before)
    learner.step()
    after = learner.state()
    assert not learner.has(before)
    accelerator.load_state(str(out / "state"))
    assert learner.has(before)
    learner.step()
    assert learner.has(after)
    if accelerator.is_main_process:
        torch.save(before, out / "expected.pt")
    learner.close()


def restores_what_one_process_saved(accelerator: Accelerator, out: Path) -> None:
    learner = Learner(accelerator)
    accelerator.load_state(str(out / "one"))
    assert learner.has(torch.load(out / "one.pt", weights_only=True))
    learner.step()
    learner.close()
    resumed = replicated.run("der++", 12, accelerator, out=out / "run of one", resume=True)
    whole = replicated.run("der++", 12, accelerator)
    torch.testing.assert_close(resumed["parameters"], whole["parameters"], rtol=1e-9, atol=1e-12)
    assert resumed["held"] == whole["held"]


def goes_on_bit_for_bit(accelerator: Accelerator, out: Path) -> None:
    """Stopped in the middle of the second epoch, whose last batch is uneven. With three processes all but the last bits
    are equal: the order in which torch adds up their gradients changes after the first step of a run."""
    exact = {"rtol": 0.0, "atol": 0.0} if accelerator.num_processes == 2 else {"rtol": 1e-13, "atol": 1e-14}
    whole = replicated.run("der++", 12, accelerator)
    replicated.run("der++", 7, accelerator, out=out / "run")
    resumed = replicated.run("der++", 12, accelerator, out=out / "run", resume=True)
    for name in ("parameters", "memory"):
        pairs = zip(whole[name], resumed[name], strict=True)
        if name == "memory":
            pairs = [(whole[name][key], resumed[name][key]) for key in whole[name]]
        for a, b in pairs:
            torch.testing.assert_close(a, b, **exact, msg=name)
    assert resumed["drawn"] == whole["drawn"][-len(resumed["drawn"]) :]
    assert resumed["seen"] == whole["seen"] == 55 * 2 + 24


def notices_processes_that_differ(accelerator: Accelerator) -> None:
    rank = accelerator.process_index
    memory = ReplayMemory(Store(20, seed=rank))
    memory.attach(accelerator)
    memory.remember(**replicated.data())
    recalled = memory.recall()
    views = joint_forward(replicated.net(), replicated.data(), recalled)
    with pytest.raises(RuntimeError, match="the memories of the processes have drawn different rows"):
        memory.loss(*views)

    memory = ReplayMemory(Store(20))
    memory.attach(accelerator)
    name = "input" if rank else "image"
    with pytest.raises(ValueError, match=f"process {rank} has the columns {name}: torch.float32 "):
        memory.remember(**{name: torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=f"process {rank} has {'no columns' if rank else 'the columns input'}"):
        memory.remember(**({} if rank else {"input": torch.zeros(2, 3)}))
    memory.remember()
    assert len(memory.source) == 0
    memory.detach()


def notices_memories_that_want_different_rows(accelerator: Accelerator) -> None:
    for keep in (Reservoir(), ClassBalanced(Reservoir())):
        memory = ReplayMemory(Store(20, keep=keep, seed=accelerator.process_index))
        memory.attach(accelerator)
        memory.remember(**replicated.data())
        with pytest.raises(RuntimeError, match="the memories of the processes want different rows"):
            remember_often(memory)
        memory.detach()


def remember_often(memory: ReplayMemory) -> None:
    for _ in range(20):
        memory.remember(**replicated.data())


def normalises_by_the_rows_of_each_process(accelerator: Accelerator) -> None:
    """Batch statistics are those of each process while it trains, recalled rows among them, and those of rank 0
    afterwards."""
    size, rank = accelerator.num_processes, accelerator.process_index
    rows = take(replicated.data(), torch.arange(48))
    for replay in (0, 6):
        model, plain = replicated.net(nn.BatchNorm1d(16)), replicated.net(nn.BatchNorm1d(16))
        memory, alone = (
            ReplayMemory(Store(20), mix=CrossEntropy() + 0.5 * ReplayCrossEntropy(), replay=replay) for _ in range(2)
        )
        seen = []

        def epoch_end(progress: Progress, model: nn.Module = model, seen: list[Any] = seen) -> None:
            seen.append([buffer.clone() for buffer in model.buffers()])

        loader = batches(rows, 12 // size)
        fit(
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            loader,
            memory,
            epochs=2,
            remember=("input", "label"),
            accelerator=accelerator,
            on_epoch_end=epoch_end,
            progress_bar=False,
        )
        optimizer = torch.optim.SGD(plain.parameters(), 0.1)
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            for index in torch.tensor(list(loader.sampler)).split(12):
                batch = take({name: rows[name] for name in ("input", "label")}, index)
                recalled = (alone.recall() or {}).get("replay")
                old = {} if recalled is None else take(recalled.columns, torch.arange(replay))
                logits, old_logits, statistics = [], [], {}
                for i in range(size):
                    parts = [part["input"].chunk(size)[i] for part in (batch, old) if part]
                    outputs = plain(torch.cat(parts)).split([len(part) for part in parts])
                    logits.append(outputs[0])
                    old_logits += outputs[1:]
                    statistics = statistics or {n: values.clone() for n, values in plain[1].named_buffers()}
                loss = nn.functional.cross_entropy(torch.cat(logits), batch["label"])
                if old:
                    loss = loss + 0.5 * nn.functional.cross_entropy(torch.cat(old_logits), old["label"])
                loss.backward()
                plain[1].load_state_dict(statistics, strict=False)
                optimizer.step()
                optimizer.zero_grad()
                alone.remember(**batch)
        torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=1e-9, atol=1e-12)
        assert torch.equal(memory.source.rows().ids, alone.source.rows().ids)
        assert seen[1][0].equal(model[1].running_mean)
        for values in (*model.state_dict().values(), *seen[0]):
            assert accelerator.gather(values[None]).sub(values).eq(0).all(), rank
        memory.detach()


def agrees_in_half_precision(accelerator: Accelerator) -> None:
    """bf16 autocast: replicas are the same bit for bit, and near to what float32 gives."""
    results = {}
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state()
        accelerator = new_accelerator(mixed_precision=precision)
        assert accelerator.num_processes > 1
        rows = {
            name: values.float() if values.is_floating_point() else values for name, values in replicated.data().items()
        }
        model = replicated.net().float()
        memory = ReplayMemory(Store(20), mix=CrossEntropy() + 0.5 * ReplayCrossEntropy() + LogitDistillation())
        fit(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            batches(rows, 12 // accelerator.num_processes),
            memory,
            steps=20,
            remember=("input", "label", "logits"),
            accelerator=accelerator,
            progress_bar=False,
        )
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        held = memory.source.rows()
        for values in (weights, held["logits"], held.ids):
            assert accelerator.gather(values[None]).eq(values).all(), precision
        results[precision] = weights, held["logits"], held.ids
        memory.detach()
    (weights, logits, ids), (weights_half, logits_half, ids_half) = results["no"], results["bf16"]
    assert torch.equal(ids, ids_half)
    assert logits_half.dtype == torch.float32
    assert 0 < (weights - weights_half).abs().max() < 0.02
    assert 0 < (logits - logits_half).abs().max() < 0.1


def counts_gradients_once(accelerator: Accelerator) -> None:
    """Each process gets the gradient of the global loss with respect to its rows, times the number of processes."""
    replicas = Replicas(accelerator)
    mine = torch.full((replicas.rank + 1,), 2.0, requires_grad=True)
    new, _ = replicas.views(View({"weight": torch.ones(replicas.rank + 1)}, {"output": mine}), {}, {})
    total = sum(rank + 1 for rank in range(replicas.size))
    assert len(new.output("output")) == len(new.column("weight")) == total
    new.output("output").square().mean().backward()
    torch.testing.assert_close(mine.grad, torch.full_like(mine, replicas.size * 4.0 / total))


def main(out: str) -> None:
    torch.set_num_threads(1)
    accelerator = new_accelerator(timeout=120)
    assert accelerator.num_processes == int(os.environ["WORLD_SIZE"]) > 1
    gathers_rows_of_any_kind(Replicas(accelerator))
    takes_the_choice_of_rank_0(Replicas(accelerator))
    counts_gradients_once(accelerator)
    notices_processes_that_differ(accelerator)
    notices_memories_that_want_different_rows(accelerator)
    refuses_what_one_process_refuses(accelerator)
    sends_only_the_rows_that_stay(accelerator)
    normalises_by_the_rows_of_each_process(accelerator)
    restores_what_accelerate_saved(accelerator, Path(out))
    restores_what_one_process_saved(accelerator, Path(out))
    goes_on_bit_for_bit(accelerator, Path(out))
    agrees_in_half_precision(accelerator)
    accelerator.wait_for_everyone()
    (Path(out) / f"passed-{accelerator.process_index}").write_text(str(accelerator.num_processes))


if __name__ == "__main__":
    main(*sys.argv[1:])
