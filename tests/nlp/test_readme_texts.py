"""The README's section on texts runs as it stands, but for the encoder."""

import io
import re
import shlex
import sys
from pathlib import Path

import pytest

from memreplay.cli import main

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
FILES = {
    "shots.csv": {
        "lost_card": ["where is my card", "my card please", "i lost my card", "it is stolen"],
        "show_balance": ["show my balance", "the money left", "how is my balance", "balance please"],
    },
    "test.csv": {"lost_card": ["i lost my card please"], "show_balance": ["show the balance"]},
    "new.csv": {"send_money": ["send money to a friend", "transfer the money", "how do i transfer"]},
}


def test_the_section_on_texts_runs(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, texts in FILES.items():
        lines = [f"{text},{intent}" for intent, shots in texts.items() for text in shots]
        (tmp_path / name).write_text("\n".join(["question,intent", *lines]) + "\n")
    section = README.partition("## On your own texts\n")[2].partition("\n## ")[0]
    blocks = [
        "\n".join(line[4:] for line in block.splitlines()) for block in re.findall(r"(?:^    .+\n)+", section, re.M)
    ]
    commands = [command for block in blocks if "memreplay nlp" in block for command in unfolded(block)]
    python = [block for block in blocks if block.startswith("from memreplay")]
    assert len(commands) == 5
    assert len(python) == 1
    said = [
        run(command.replace("sentence-transformers/all-MiniLM-L6-v2", tiny_encoder), monkeypatch, capsys)
        for command in commands
    ]
    assert "8 texts of 2 classes learned" in said[0]
    assert '"label": "' in said[1]
    assert "1 new classes from 3 texts" in said[2]
    assert "accuracy" in said[3]
    assert "2 classes are left" in said[4]
    exec(compile(python[0], "README.md", "exec"), {})


def unfolded(block: str) -> list[str]:
    """Commands, of which one may go on in the next line."""
    return block.replace("\\\n", " ").splitlines()


def run(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints; ``echo TEXT |`` before it is its standard input."""
    said, _, command = command.rpartition("|")
    if said:
        text = " ".join(shlex.split(said)[1:]) + "\n"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    capsys.readouterr()
    main(shlex.split(command)[1:])
    return capsys.readouterr().out
