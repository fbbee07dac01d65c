"""The callbacks on two processes, started by torchrun, give what one process gives."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("lightning.pytorch")
SCRIPT = Path(__file__).parents[1] / "launch" / "trained_by_others.py"
START = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def alone(out: Path) -> Any:
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    spec = importlib.util.spec_from_file_location("trained_by_others", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run(out, 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_equal_one(tmp_path: Path) -> None:
    command = [*START, "--nproc_per_node", "2", str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    expected = alone(tmp_path)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
    for name, one in expected.items():
        for found in (first[name], second[name]):
            assert found["ids"] == one["ids"], name
            assert found["seen"] == one["seen"], name
            torch.testing.assert_close(found["inputs"], one["inputs"], msg=name)
            if "uneven" not in name:  # the Trainer's own loss counts the rows that fill up the last batch
                torch.testing.assert_close(found["parameters"], one["parameters"], rtol=1e-9, atol=1e-12, msg=name)
