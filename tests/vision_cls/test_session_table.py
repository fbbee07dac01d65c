from pathlib import Path

import pytest
import torch

from memreplay import Sessions
from memreplay.core.reporting import Results
from memreplay.vision_cls import session_table
from memreplay.vision_cls.session_methods import CANDIDATES
from memreplay.vision_cls.session_table import bootstrapped, kept, normalized, table

CLASSES = 16


def rows(seed: int, n: int) -> dict[str, torch.Tensor]:
    centre = torch.randn(CLASSES, 24, generator=torch.Generator().manual_seed(0))
    label = torch.arange(CLASSES).repeat_interleave(n)
    noise = torch.randn(len(label), 24, generator=torch.Generator().manual_seed(seed))
    return normalized(centre[label] + noise, label)


def test_every_candidate_has_its_row_and_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = rows(1, 24), rows(2, 6)
    sessions = Sessions(train["label"], base=10, way=2, shot=5)
    names = ["ncm", "ours", "knn"]
    results = Results("demo")
    table(results, names, sessions, train, test, 2, tmp_path)
    found = {(row.name, row.metric): row for row in results.rows}
    assert {name for name, _ in found} == set(names)
    assert found["knn", "base"].seeds == 2
    assert found["ours", "base"].seeds == 1
    ours = results.config["after each session"]["ours"]
    assert len(ours) == 4
    assert found["ours", "drop"].ours == pytest.approx(ours[0] - ours[-1])
    assert found["ours", "last"].ours == pytest.approx(ours[-1])
    assert set(results.config["settings"]["ours"]) == {"spread", "offset"}
    assert len(results.config["ours minus, harmonic, 95 % by bootstrap over test images"]) == 2
    monkeypatch.setattr(session_table, "run", lambda *_: pytest.fail("run again"))
    again = Results("demo")
    table(again, names, sessions, train, test, 2, tmp_path)
    assert again.rows == results.rows


@pytest.mark.parametrize(
    "name", sorted(CANDIDATES.keys() - {"ranpac", "ranpac balanced", "projected"})
)  # these are slow
def test_candidates_learn_sessions(name: str) -> None:
    train, test = rows(1, 24), rows(2, 6)
    candidate = CANDIDATES[name]
    sessions = Sessions(train["label"], base=10, way=3, shot=5)
    found = session_table.run(name, candidate.settings()[0], 0, sessions, train, test)
    assert found["figures"]["last"] > 100 / CLASSES
    assert found["figures"]["megabytes"] > 0 or name == "none"
    assert len(found["predicted"]) == len(test["label"])


def test_what_is_kept_is_of_the_same_setting(tmp_path: Path) -> None:
    made = [kept(tmp_path / "a.json", {"lr": lr}, lambda lr=lr: {"figure": lr}) for lr in (1.0, 1.0, 2.0)]
    assert made == [{"figure": 1.0}, {"figure": 1.0}, {"figure": 2.0}]
    assert kept(tmp_path / "a.json", {"lr": 2.0}, lambda: pytest.fail("made again")) == {"figure": 2.0}


def test_the_bootstrap_is_as_wide_as_the_binomial() -> None:
    """Equal base accuracy, novel accuracies of 0.5 and 0.3 on independent rows: compare with the delta method."""
    generator = torch.Generator().manual_seed(0)
    n = 4000
    is_base = torch.arange(2 * n) < n
    first, second = torch.rand(2, 2 * n, generator=generator).unbind()
    right = torch.where(is_base, first < 0.8, first < 0.5)
    other = torch.where(is_base, second < 0.8, second < 0.3)
    low, high = bootstrapped(right, other, is_base)

    def moments(novel: float) -> tuple[float, float]:
        base = 0.8
        slope_base, slope_novel = 2 * novel**2 / (base + novel) ** 2, 2 * base**2 / (base + novel) ** 2
        variance = (slope_base**2 * base * (1 - base) + slope_novel**2 * novel * (1 - novel)) / n
        return 200 * base * novel / (base + novel), 1e4 * variance

    (a, va), (b, vb) = moments(0.5), moments(0.3)
    assert (high - low) / 2 == pytest.approx(1.96 * (va + vb) ** 0.5, rel=0.1)
    assert low < a - b < high
