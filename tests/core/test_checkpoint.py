from __future__ import annotations

import pytest
import torch
from torch import nn

from memreplay.core.checkpoint import Checkpoints, Progress, latest
from memreplay.core.memory import ReplayMemory
from memreplay.core.random_state import random_state


class Tied(nn.Module):
    """Two layers, one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 4, bias=False)
        self.decode = nn.Linear(4, 4)
        self.decode.weight = self.encode.weight


def checkpoints_of(folder, model, **settings) -> Checkpoints:
    from accelerate import Accelerator

    optimizer = torch.optim.Adam(model.parameters())
    return Checkpoints(folder, Accelerator(cpu=True), model, ReplayMemory(), {"optimizer": optimizer}, **settings)


def test_tied_weights_stay_tied(tmp_path):
    model, other = Tied(), Tied()
    state = random_state()
    progress = Progress(step=3, epoch=1, batch=2, seconds=0.5)
    checkpoints_of(tmp_path, model).save(progress, state, state)
    found, start, now = checkpoints_of(tmp_path, other).load()
    assert found == progress
    assert torch.equal(start["torch"], state["torch"])
    assert torch.equal(now["torch"], state["torch"])
    assert torch.equal(other.encode.weight, model.encode.weight)
    assert other.decode.weight is other.encode.weight


def test_only_the_last_few_stay(tmp_path):
    model, state = Tied(), random_state()
    checkpoints = checkpoints_of(tmp_path, model, keep=3)
    assert checkpoints.latest() is None
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoints.load()
    for step in (8, 9, 10, 11):
        checkpoints.save(Progress(step=step), state, state)
    assert latest(tmp_path).name == "step-11-epoch-0"
    # a run that went on from an older checkpoint leaves nothing of the newer ones
    checkpoints.save(Progress(step=10, epoch=1), state, state)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["latest", "step-10-epoch-0", "step-10-epoch-1", "step-9-epoch-0"]


def test_a_process_that_was_not_there_keeps_its_generators(tmp_path):
    model, state = Tied(), random_state()
    checkpoints_of(tmp_path, model).save(Progress(step=1), state, state)
    (tmp_path / "step-1-epoch-0" / "random-0.pt").unlink()
    assert checkpoints_of(tmp_path, model).load() == (Progress(step=1), None, None)
