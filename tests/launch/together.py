"""Checks on several processes that need no comparison with one: checkpoints, disagreement, transport.

torchrun --nproc_per_node 2 together.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import replicated
import torch
from accelerate import Accelerator

from memreplay.core.batch import jagged
from memreplay.core.distributed import Replicas
from memreplay.core.memory import ReplayMemory
from memreplay.core.mixers import View, joint_forward
from memreplay.core.stores import Rows, Store


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


def restores_what_accelerate_saved(accelerator: Accelerator, out: Path) -> None:
    model, _, memory = replicated.make("uniform")
    memory.attach(accelerator)
    model = accelerator.prepare(model)
    memory.remember(**replicated.data())
    memory.recall()
    before = tensors_of(memory)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    accelerator.save_state(str(out / "state"))
    memory.remember(**replicated.data())
    memory.recall()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    accelerator.load_state(str(out / "state"))  # at once: no process may still be writing
    after = tensors_of(memory)
    assert all(torch.equal(after[name], values) for name, values in before.items())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))
    if accelerator.is_main_process:
        torch.save(before, out / "expected.pt")
    accelerator.free_memory()


def goes_on_bit_for_bit(accelerator: Accelerator, out: Path) -> None:
    """Stopped in the middle of the second epoch, whose last batch is uneven."""
    whole = replicated.run("der++", 12, accelerator)
    replicated.run("der++", 7, accelerator, out=out / "run")
    resumed = replicated.run("der++", 12, accelerator, out=out / "run", resume=True)
    for name in ("parameters", "memory"):
        pairs = zip(whole[name], resumed[name], strict=True)
        if name == "memory":
            pairs = [(whole[name][key], resumed[name][key]) for key in whole[name]]
        assert all(torch.equal(a, b) for a, b in pairs), name
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
    assert len(memory.source) == 0


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
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes > 1
    gathers_rows_of_any_kind(Replicas(accelerator))
    takes_the_choice_of_rank_0(Replicas(accelerator))
    counts_gradients_once(accelerator)
    notices_processes_that_differ(accelerator)
    restores_what_accelerate_saved(accelerator, Path(out))
    goes_on_bit_for_bit(accelerator, Path(out))
    accelerator.wait_for_everyone()
    (Path(out) / f"passed-{accelerator.process_index}").write_text(str(accelerator.num_processes))


if __name__ == "__main__":
    main(*sys.argv[1:])
