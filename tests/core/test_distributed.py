"""Starts the scripts in tests/launch by torchrun: `accelerate launch --cpu --num_processes 2` would start one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memreplay.core.memory import ReplayMemory
from memreplay.core.stores import Store

LAUNCH = Path(__file__).parents[1] / "launch"


@pytest.fixture(autouse=True)
def fresh_accelerate():
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, LAUNCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def launch(processes: int, script: str, *arguments: object) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += [str(LAUNCH / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-6000:]


def check_equal_to_one_process(processes: int, out: Path, steps: int, *names: str) -> None:
    from accelerate import Accelerator

    launch(processes, "replicated.py", out, steps, *names)
    replicated = load("replicated")
    found = [torch.load(out / f"rank-{rank}.pt", weights_only=True) for rank in range(processes)]
    assert [results["processes"] for results in found] == [processes] * processes
    one = Accelerator(cpu=True)
    for name in names or replicated.SCENARIOS:
        expected = replicated.run(name, steps, one)
        assert len(expected["losses"]) >= steps
        for results in found:
            got = results["scenarios"][name]
            for part in ("losses", "parameters"):
                torch.testing.assert_close(got[part], expected[part], rtol=1e-9, atol=1e-12, msg=f"{name}: {part}")
            for part in ("drawn", "held", "seen"):
                assert got[part] == expected[part], f"{name}: {part}"
            torch.testing.assert_close(got["memory"], expected["memory"], rtol=1e-9, atol=1e-12, msg=name)


def test_two_processes_equal_one(tmp_path):
    check_equal_to_one_process(2, tmp_path, 6, "uniform", "query", "der++")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_every_way_to_replay_equals_one_process(processes, tmp_path):
    check_equal_to_one_process(processes, tmp_path, 50)


@pytest.mark.slow
def test_checkpoints_and_disagreements_of_two_processes_and_from_two_to_one(tmp_path):
    from accelerate import Accelerator

    launch(2, "together.py", tmp_path)
    assert [(tmp_path / f"passed-{rank}").read_text() for rank in range(2)] == ["2", "2"]
    memory = ReplayMemory(Store(20))
    memory.load(tmp_path / "state" / "memory")
    expected = torch.load(tmp_path / "expected.pt", weights_only=True)
    found = memory.source.state_dict()["tensors"]
    assert all(torch.equal(found[name], values) for name, values in expected.items())
    replicated = load("replicated")
    resumed = replicated.run("der++", 13, Accelerator(cpu=True), out=tmp_path / "run", resume=True)
    whole = replicated.run("der++", 13, Accelerator(cpu=True))
    torch.testing.assert_close(resumed["parameters"], whole["parameters"], rtol=1e-9, atol=1e-12)
    assert resumed["seen"] == whole["seen"]
