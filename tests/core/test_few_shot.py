import pytest
import torch

from memreplay.core.batch import Batch
from memreplay.core.few_shot import METHODS, candidates, choose, memory_bytes
from memreplay.core.protocols import Episodes, episode_accuracies
from memreplay.core.readout import NearestClassMean


@pytest.fixture
def rows() -> Batch:
    """Twenty classes in 70 dimensions that differ in few of them."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(20).repeat_interleave(30)
    means, noise = torch.randn(20, 70, generator=generator), torch.randn(600, 70, generator=generator)
    strength = torch.linspace(2.0, 0.1, 70)
    return {"feature": 0.6 * means[label] * strength + 0.7 * noise * strength.flip(0), "label": label}


@pytest.mark.parametrize("nonnegative", [False, True])  # tukey's transform applies to the latter
def test_every_method_learns_and_the_base_helps(rows: Batch, nonnegative: bool) -> None:
    feature = rows["feature"].relu() if nonnegative else rows["feature"]
    is_base = rows["label"] < 14
    base = {"feature": feature[is_base], "label": rows["label"][is_base]}
    episodes = Episodes(rows["label"], 5, 1, 10, 20, classes=range(14, 20))
    found = {}
    for name in (name for name in METHODS if name != "baseline++" or nonnegative):
        readout = next(iter(candidates(name, base).values()))
        assert (memory_bytes(readout) > 14 * 64 * 64 * 4) == (name == "calibration")
        found[name] = sum(episode_accuracies(readout, feature, episodes)) / len(episodes)
    assert min(found.values()) > 40, found
    assert found["calibration"] > found["logistic"], found


def test_settings_are_chosen_on_the_episodes_given(rows: Batch) -> None:
    episodes = Episodes(rows["label"], 5, 5, 5, 10)
    good, bad = NearestClassMean(), lambda held, feature: NearestClassMean()(held, -feature)
    assert choose({"bad": bad, "good": good}, rows["feature"], episodes) == "good"
    assert choose({"first": good, "same": good}, rows["feature"], iter(episodes)) == "first"


def test_what_is_missing_is_named(rows: Batch) -> None:
    with pytest.raises(ValueError, match="methods is 'knnn'; expected one of ncm"):
        candidates("knnn")
    for base in (None, {name: values[:0] for name, values in rows.items()}):
        with pytest.raises(ValueError, match="methods is 'cl2n', which recalls base classes"):
            candidates("cl2n", base)
