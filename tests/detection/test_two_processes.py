"""One detector on two processes."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memreplay.core.training import new_accelerator

LAUNCH = Path(__file__).parents[1] / "launch"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["regions", "images"])
def test_two_processes_learn_what_one_does(source: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(LAUNCH / "detection.py"), str(tmp_path), source],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    assert [part["processes"] for part in found] == [2, 2]
    assert all(torch.equal(found[0]["weights"][name], values) for name, values in found[1]["weights"].items())
    launched = runpy.run_path(str(LAUNCH / "detection.py"))
    alone = launched["learned"](new_accelerator(), source)
    assert all(
        torch.allclose(values, alone[name], rtol=1e-4, atol=1e-6) for name, values in found[0]["weights"].items()
    )
    start = launched["SMALL"].build(3).heads.state_dict()
    assert any(not torch.allclose(values, start[name], atol=1e-3) for name, values in alone.items())
