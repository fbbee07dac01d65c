"""Starts the scripts in tests/launch by torchrun: `accelerate launch --cpu --num_processes 2` would start one."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from memreplay.core.checkpoint import latest
from memreplay.core.training import new_accelerator

pytestmark = pytest.mark.timeout(900)  # processes that wait for each other need cores of their own to be quick
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


def start(processes: int, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += [str(LAUNCH / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)


def launch(processes: int, script: str, *arguments: object) -> None:
    done = start(processes, script, *arguments)
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
    check_equal_to_one_process(2, tmp_path, 6, "query", "verdict", "accumulation", "der++", "ragged, balanced")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_every_way_to_replay_equals_one_process(processes, tmp_path):
    check_equal_to_one_process(processes, tmp_path, 50)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_what_processes_do_together_and_checkpoints_from_one_to_many_and_back(processes, tmp_path):
    from accelerate import Accelerator

    replicated, together = load("replicated"), load("together")
    one = Accelerator(cpu=True)
    learner = together.Learner(one)
    for _ in range(3):
        learner.step()
    one.save_state(str(tmp_path / "one"))
    torch.save(learner.state(), tmp_path / "one.pt")
    learner.close()
    replicated.run("der++", 7, one, out=tmp_path / "run of one")

    launch(processes, "together.py", tmp_path)
    assert [(tmp_path / f"passed-{rank}").read_text() for rank in range(processes)] == [str(processes)] * processes

    learner = together.Learner(one)
    one.load_state(str(tmp_path / "state"))
    assert learner.has(torch.load(tmp_path / "expected.pt", weights_only=True))
    learner.step()
    learner.close()
    resumed = replicated.run("der++", 13, one, out=tmp_path / "run", resume=True)
    whole = replicated.run("der++", 13, one)
    torch.testing.assert_close(resumed["parameters"], whole["parameters"], rtol=1e-9, atol=1e-12)
    assert resumed["seen"] == whole["seen"]


def test_how_long_processes_wait_for_each_other():
    from accelerate import DistributedDataParallelKwargs, InitProcessGroupKwargs

    def waits(**options):
        return new_accelerator(**options).init_handler.timeout.total_seconds()

    own = InitProcessGroupKwargs(timeout=timedelta(seconds=7))
    assert waits() == 600
    assert waits(timeout=5, kwargs_handlers=[DistributedDataParallelKwargs()]) == 5
    assert waits(timeout=5, kwargs_handlers=[own]) == 7


# -- a process that fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["exits", *(pytest.param(how, marks=pytest.mark.slow) for how in ("is killed", "raises", "hangs"))]
)
def test_the_others_fail_when_one_process(how, tmp_path):
    """Without a launcher that ends them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, str(LAUNCH / "failing.py"), str(tmp_path), how]
    started = []
    for rank in ("0", "1"):
        env = {**os.environ, **address, "RANK": rank, "LOCAL_RANK": rank}
        started.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    try:
        _, complaint = started[0].communicate(timeout=250)
        assert started[0].returncode == 1
        assert "RuntimeError" in complaint or "DistBackendError" in complaint
        assert float((tmp_path / "failed-0").read_text()) < 100
        if how != "hangs":
            started[1].communicate(timeout=250)
            assert started[1].returncode == {"exits": 17, "is killed": -signal.SIGKILL, "raises": 1}[how]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert latest(tmp_path / "run" / "checkpoints").name == "step-4-epoch-0"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exits", "is killed", "raises"])
def test_torchrun_ends_when_one_of_three_processes(how, tmp_path):
    done = start(3, "failing.py", tmp_path, how)
    assert done.returncode == 1
    assert "failing.py FAILED" in done.stderr
    assert latest(tmp_path / "run" / "checkpoints").name == "step-4-epoch-0"
