"""A run with everything that a report shows, and names that try to break out of the page."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from memreplay import ClassBalanced, KNearest, Ragged, ReplayMemory, Reservoir, Results, Store, Trace, explain
from memreplay.core.batch import jagged
from memreplay.core.reporting.cases import Case, save_cases

Make = Callable[..., Path]
HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"


def make_run(folder: Path, methods: tuple[str, ...] = ("er", "none"), hostile: str = HOSTILE) -> Path:
    generator = torch.Generator().manual_seed(0)
    store = Store(20, keep=ClassBalanced(Reservoir()), columns={"text": Ragged()})
    memory = ReplayMemory(store, replay=4, trace=Trace())
    for step in range(6):
        label = torch.arange(10) % 3
        memory.remember(
            feature=torch.randn(10, 4, generator=generator),
            label=label,
            thumbnail=torch.randint(0, 255, (10, 3, 8, 8), generator=generator, dtype=torch.uint8),
            text=jagged([f"text {step}.{i} {hostile if i == 0 else ''}" for i in range(10)]),
        )
        memory.recall()
    memory.save(folder)
    results = Results("toys/train", {"class_names": ["cat", "dog", hostile], "note": hostile})
    for place, method in enumerate(methods):
        for metric in ("base", "novel", "harmonic"):
            results.add(method, metric, [70.0 + 5 * place, 72.0 + 5 * place])
            for session in range(3):
                results.add_point(method, metric, "session", session, [80.0 - 4 * session, 78.0 - 4 * session])
        results.add(method, "forgetting", [4.0 + place])
        results.add_cost(method, [2.0 + place], [4000 * (1 + place)])
    for recall in ("on", "off"):
        for shot in (1, 5):
            for steps in (1, 10):
                for metric in ("new after", "processor seconds"):
                    results.add(f"{shot}-shot, recall {recall}, {steps} steps", metric, [float(steps + shot)])
    results.save(folder)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"ste')
    (folder / "config.yaml").write_text(f"name: {hostile!r}\n")
    evidence = explain(store.rows(), torch.randn(2, 4, generator=generator), KNearest(3)).told
    names = ["cat", "dog", hostile]
    cases = [
        Case(f"asked {query} {hostile}", None, "cat", names[told["class"]], 0.8, {**told, "memory": ""})
        for query, told in enumerate(map(evidence, range(2)))
    ]
    save_cases(cases, folder)
    return folder


@pytest.fixture(scope="session")
def hostile() -> str:
    return HOSTILE


@pytest.fixture(scope="session")
def make() -> Make:
    """Makes a run in a folder."""
    return make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "toys")
