"""Settings that all tests share."""

import io
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# tiny tensors: threads would cost more than they give, and figures would depend on the number of cores
torch.set_num_threads(1)

settings.register_profile("memreplay", deadline=None, derandomize=True)
settings.load_profile("memreplay")


@pytest.fixture
def section_of_readme() -> Callable[[str], list[str]]:
    """The indented blocks of a section of the README, by its heading."""

    def blocks(heading: str) -> list[str]:
        text = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
        section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        found = re.findall(r"(?:^    .+\n)+", section, re.MULTILINE)
        return ["\n".join(line[4:] for line in block.splitlines()) for block in found]

    return blocks


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Runs ``memreplay ...`` and gives what it prints; ``echo TEXT |`` before it is its standard input."""
    from memreplay.cli import main

    def run(command: str) -> str:
        said, _, command = command.rpartition("|")
        if said:
            text = " ".join(shlex.split(said)[1:]) + "\n"
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        capsys.readouterr()
        main(shlex.split(command)[1:])
        return capsys.readouterr().out

    return run
