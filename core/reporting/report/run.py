"""Run: all that a folder, or a results file, has to tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...checkpoint import latest
from ..cases import Case, load_cases
from .figures import Figures
from .held import Held, read_held

LOSSES = 400
"""Points of a training curve at most."""


@dataclass(frozen=True)
class Memory:
    """A memory of a run.

    Attributes:
        title: what it is for people.
        held: what it holds.
    """

    title: str
    held: Held


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        name: for people; unique in a report.
        path: where it is.
        results: what ``results.json`` says, without the figures.
        figures: those.
        losses: of its training: ``stage``, ``step`` and ``loss``.
        memories: what it remembers.
        cases: predictions with their evidence.
        config: ``config.yaml``, as it is.
    """

    name: str
    path: Path
    results: dict[str, Any]
    figures: Figures
    losses: list[dict[str, Any]]
    memories: list[Memory]
    cases: list[Case]
    config: str | None

    def memory_of(self, case: Case) -> Held | None:
        """The memory that a case's evidence is of, if it is still there."""
        place = case.evidence.get("memory")
        return next((memory.held for memory in self.memories if memory.held.place == place), None)


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in ``paths``, each with a name of its own: the last part of its path that tells them apart.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: a path without anything to report, or twice the same.
    """
    whole = [path.resolve() for path in paths]
    for path in whole:
        if whole.count(path) > 1:
            raise ValueError(f"runs has {str(path)!r} twice; expected every run once")
    runs = [read_run(path) for path in paths]
    parts = [(path.with_suffix("") if path.suffix == ".json" else path).parts for path in whole]
    for length in range(1, 1 + max(map(len, parts))):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def read_run(path: str | Path) -> Run:
    """Reads the folder of a run, of an adapter or of a memory; or a ``results.json`` by whatever name.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: there is nothing to report, or it is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"runs has {str(path)!r}, which is not there; expected the folder of a run, or its results.json"
        )
    if path.is_file():
        found = _results(path)
        return Run(path.stem, path, _settings(found), Figures.of(found), [], [], [], None)
    file = path / "results.json"
    found = _results(file) if file.is_file() else {"rows": []}
    cases = load_cases(path)
    memories = _memories(path, found, cases)
    losses = _losses(path)
    if not (found["rows"] or memories or losses or cases):
        raise ValueError(
            f"runs has {str(path)!r}, where there is nothing to report; expected results.json, metrics.jsonl or a "
            "saved memory in it"
        )
    config = path / "config.yaml"
    text = config.read_text(encoding="utf-8") if config.is_file() else None
    return Run(path.name, path, _settings(found), Figures.of(found), losses, memories, cases, text)


def _results(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        Figures.of(found)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"runs has {str(file)!r}, which holds no results: {error!r}; expected a results.json"
        ) from error
    return dict(found)


def _settings(results: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in results.items() if name not in ("rows", "points", "costs")}


def _memories(path: Path, results: dict[str, Any], cases: Sequence[Case]) -> list[Memory]:
    """What is saved in the folder itself, and what the last checkpoint replayed; of an evaluation, the adapter's."""
    config = results.get("config", {})
    numbered = {str(number): str(name) for number, name in enumerate(config.get("class_names", []))}
    wanted: dict[str, set[int]] = {}
    for case in cases:
        rows = [*case.evidence.get("for", []), *case.evidence.get("against", [])]
        wanted.setdefault(case.evidence.get("memory", ""), set()).update(row["id"] for row in rows)
    found = []
    saves = [path, Path(config["adapter"])] if "adapter" in config else [path]
    for save in [save for save in saves if (save / "manifest.json").is_file()][:1]:
        found += [Memory(_title(held.place, "in use"), held) for held in read_held(save, numbered, wanted)]
    if (path / "memory" / "manifest.json").is_file():
        found += [Memory(_title(held.place, "replayed"), held) for held in read_held(path / "memory", numbered)]
    stages = [path, *sorted((part for part in path.iterdir() if part.is_dir()), key=lambda part: part.stat().st_mtime)]
    trained = [stage for stage in stages if latest(stage / "checkpoints") is not None]
    for stage in trained[-1:]:
        memory = latest(stage / "checkpoints")
        assert memory is not None
        if (memory / "memory" / "manifest.json").is_file():
            found += [
                Memory(_title(held.place, "replayed" if stage == path else f"replayed in {stage.name}"), held)
                for held in read_held(stage, numbered)
            ]
    return found


def _title(place: str, what: str) -> str:
    parts = [part for part in place.split(".") if part and part != "memory"]
    return f"{what}, {' '.join(parts)}" if parts else what


def _losses(path: Path) -> list[dict[str, Any]]:
    """The training curves of the run and its stages."""
    found = []
    for file in sorted(path.rglob("metrics.jsonl"), key=lambda file: (file.stat().st_mtime, file)):
        stage = file.parent.relative_to(path).as_posix().replace(".", "")
        lines = []
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                told = json.loads(line)
            except ValueError:
                continue  # the line that a run is writing
            if "loss" in told and "step" in told:
                lines.append({"stage": stage, "step": told["step"], "loss": told["loss"]})
        every = -(-len(lines) // LOSSES) or 1
        found += lines[::every]
    return found
