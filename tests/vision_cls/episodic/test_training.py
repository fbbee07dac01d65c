"""What the three ways of training have in common, on digits: it works, it can be repeated and it can be resumed."""

from pathlib import Path

import pytest
import torch

from memreplay.core.mixers import RandomAffine
from memreplay.core.protocols import Episodes, episode_accuracies, mean_interval, paired_interval
from memreplay.core.readout import NearestClassMean
from memreplay.vision_cls import ByClass, ClassParts, Conv4, Digits
from memreplay.vision_cls.episodic import ANILTraining, CosineTraining, ProtoNet, Training, Views

AUGMENT = RandomAffine(5.0, 0.05, (0.95, 1.05))
TRAININGS = [
    ProtoNet(way=6, shot=1, query=4, episodes=80, lr=0.01, augment=AUGMENT),
    ANILTraining(way=4, shot=1, query=4, episodes=80, rate=0.5, lr=0.01, augment=AUGMENT),
    CosineTraining(steps=80, batch_size=32, lr=0.01, augment=AUGMENT),
]


@pytest.fixture(scope="module")
def digits() -> ClassParts:
    return ByClass(Digits(), novel=0.4).load()


def network() -> Conv4:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Conv4(1, 8, 1, width=16)


@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: type(training).__name__)
def test_episodes_of_the_base_are_learned(training: Training, digits: ClassParts) -> None:
    state, model = torch.get_rng_state(), network()
    episodes = Episodes(digits.base.labels, 4, 1, 10, 20, seed=9)
    before = episode_accuracies(NearestClassMean("euclidean"), Views()(model, digits.base), episodes)
    readout = training.train(model, digits.base, progress_bar=False)
    after = episode_accuracies(readout, Views()(model, digits.base), episodes)
    assert torch.equal(torch.get_rng_state(), state)
    assert paired_interval(after, before).low > 10, (mean_interval(before), mean_interval(after))


@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: type(training).__name__)
def test_a_seed_is_a_run_and_a_stopped_run_goes_on(training: Training, digits: ClassParts, tmp_path: Path) -> None:
    models = [network() for _ in range(3)]
    training.train(models[0], digits.base, seed=1, progress_bar=False)
    training.train(models[1], digits.base, seed=2, progress_bar=False)

    def stop(progress: object) -> None:
        if getattr(progress, "step") == 13:  # noqa: B009
            raise KeyboardInterrupt

    options = {"out": tmp_path, "save_every": 5, "resume": True, "progress_bar": False}
    with pytest.raises(KeyboardInterrupt):
        training.train(models[2], digits.base, seed=1, on_step_end=stop, **options)
    resumed = network()
    training.train(resumed, digits.base, seed=1, **options)
    first, second, again = (model.state_dict() for model in (models[0], models[1], resumed))
    same = {name: torch.equal(values, again[name]) for name, values in first.items() if not name.startswith("head")}
    assert all(same.values()), [name for name, equal in same.items() if not equal]
    assert not torch.equal(first["body.0.convolution.weight"], second["body.0.convolution.weight"])


def test_fewer_classes_than_ways(digits: ClassParts) -> None:
    ProtoNet(way=50, query=1, episodes=1).train(network(), digits.base, progress_bar=False)
    with pytest.raises(ValueError, match="way is 50 but there are 6 classes"):
        ANILTraining(way=50, query=1, episodes=1).train(network(), digits.base, progress_bar=False)
