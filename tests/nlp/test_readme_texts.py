"""The README's section on texts runs as it stands, but for the encoder."""

from collections.abc import Callable
from pathlib import Path

import pytest

FILES = {
    "shots.csv": {
        "lost_card": ["where is my card", "my card please", "i lost my card", "it is stolen"],
        "show_balance": ["show my balance", "the money left", "how is my balance", "balance please"],
    },
    "test.csv": {"lost_card": ["i lost my card please"], "show_balance": ["show the balance"]},
    "new.csv": {"send_money": ["send money to a friend", "transfer the money", "how do i transfer"]},
}


def test_the_section_on_texts_runs(
    tiny_encoder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    section_of_readme: Callable[[str], list[str]],
    run_command: Callable[[str], str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, texts in FILES.items():
        lines = [f"{text},{intent}" for intent, shots in texts.items() for text in shots]
        (tmp_path / name).write_text("\n".join(["question,intent", *lines]) + "\n")
    blocks = section_of_readme("On your own texts")
    commands = [c for block in blocks if "memreplay nlp" in block for c in block.replace("\\\n", " ").splitlines()]
    python = [block for block in blocks if block.startswith("from memreplay")]
    assert len(commands) == 5
    assert len(python) == 1
    said = [run_command(c.replace("sentence-transformers/all-MiniLM-L6-v2", tiny_encoder)) for c in commands]
    assert "8 texts of 2 classes learned" in said[0]
    assert '"label": "' in said[1]
    assert "1 new classes from 3 texts" in said[2]
    assert "accuracy" in said[3]
    assert "2 classes are left" in said[4]
    exec(compile(python[0], "README.md", "exec"), {})
