from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memreplay.core.protocols import EpisodeBatches, Episodes, check_shots, episode_accuracies
from memreplay.core.readout import NearestClassMean

LABELS = torch.arange(8).repeat(12)[torch.randperm(96, generator=torch.Generator().manual_seed(5))] * 10


@settings(max_examples=50, deadline=None)
@given(
    way=st.integers(1, 8),
    shot=st.integers(1, 6),
    query=st.integers(0, 6),
    seed=st.integers(0, 2**32),
    number=st.integers(0, 999),
)
def test_every_episode_holds_exactly_what_it_promises(way, shot, query, seed, number):
    episode = Episodes(LABELS, way, shot, query, 1000, seed)[number]
    assert len(set(episode.classes.tolist())) == way
    check_shots(LABELS, episode.support, episode.classes, shot)
    check_shots(LABELS, episode.query, episode.classes, query)
    assert not set(episode.support.tolist()) & set(episode.query.tolist())
    assert torch.equal(episode.classes[episode.support_labels], LABELS[episode.support])
    assert torch.equal(episode.classes[episode.query_labels], LABELS[episode.query])
    assert episode.support_labels.view(way, shot).tolist() == [[i] * shot for i in range(way)]


def test_an_episode_depends_on_seed_and_number_only():
    long, short = Episodes(LABELS, 3, 2, 4, 100, seed=7), Episodes(LABELS.numpy(), 3, 2, 4, 10, seed=7)
    backwards = {i: long[i] for i in reversed(range(10))}
    for episode in short:
        assert torch.equal(episode.support, backwards[episode.number].support)
        assert torch.equal(episode.query, backwards[episode.number].query)
        assert torch.equal(episode.classes, backwards[episode.number].classes)


def test_seeds_and_numbers_give_different_episodes():
    drawn = [tuple(episode.support.tolist()) for seed in (0, 1) for episode in Episodes(LABELS, 3, 2, 2, 50, seed)]
    assert len(set(drawn)) == 100


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    list(Episodes(LABELS, 3, 2, 2, 5))
    assert torch.equal(torch.get_rng_state(), before)


def test_classes_and_rows_are_drawn_uniformly():
    stats = pytest.importorskip("scipy.stats")
    episodes = Episodes(LABELS, 2, 1, 1, 3000, seed=1)
    classes, rows = Counter(), Counter()
    for episode in episodes:
        classes.update(episode.classes.tolist())
        rows.update(episode.support.tolist())
    assert stats.chisquare(list(classes.values())).pvalue > 0.001
    assert len(rows) == len(LABELS)
    assert stats.chisquare(list(rows.values())).pvalue > 0.001


def test_it_is_a_sequence():
    episodes = Episodes(LABELS, 2, 1, 1, 4)
    assert len(episodes) == len(list(episodes)) == 4
    assert [episode.number for episode in episodes] == [0, 1, 2, 3]
    assert episodes[-1].number == 3
    assert [episode.number for episode in episodes[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        episodes[4]


def test_it_can_be_restricted_to_some_classes():
    for episode in Episodes(LABELS, 2, 1, 1, 20, classes=np.array([70, 10, 30])):
        assert set(episode.classes.tolist()) <= {10, 30, 70}


def test_episodes_differ_across_data_loader_workers_only_by_number():
    episodes = Episodes(LABELS, 2, 1, 1, 4)
    loader = torch.utils.data.DataLoader(episodes, batch_size=None, num_workers=0)
    for loaded, made in zip(loader, episodes, strict=True):
        assert torch.equal(loaded.support, made.support)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"way": 9}, "way is 9 but there are 8 classes"),
        ({"way": 2, "shot": 5, "query": 8}, "class 0 has 12 rows; expected at least 13"),
        ({"way": 0}, "way is 0; expected at least 1"),
        ({"way": 2, "shot": 0}, "shot is 0"),
        ({"way": 2, "query": -1}, "query is -1"),
        ({"way": 2, "episodes": -1}, "episodes is -1"),
        ({"way": 2, "classes": [10, 11]}, r"classes has \[11\]"),
        ({"way": 3, "classes": [10, 20]}, "way is 3 but there are 2 classes"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Episodes(LABELS, **{"query": 1, **arguments})


def test_a_class_with_too_few_rows_is_named():
    with pytest.raises(ValueError, match=r"class 4 has 2 rows; expected at least 3 \(1 support \+ 2 query\)"):
        Episodes([3] * 5 + [4] * 2, way=1, shot=1, query=2)


def test_batches_of_episodes() -> None:
    labels = torch.arange(4).repeat_interleave(5)
    episodes = Episodes(labels, way=3, shot=2, query=1, episodes=4, seed=1)
    transform = lambda rows, generator: {**rows, "noise": torch.rand(len(rows["row"]), generator=generator)}  # noqa: E731
    batches = EpisodeBatches(lambda index: {"row": index}, episodes, transform)
    assert len(batches) == 4
    first, second = list(batches), list(batches)
    for episode, batch, again in zip(episodes, first, second, strict=True):
        assert batch["row"][batch["support"]].tolist() == episode.support.tolist()
        assert batch["row"][~batch["support"]].tolist() == episode.query.tolist()
        assert torch.equal(labels[batch["row"]], episode.classes[batch["label"]])
        assert torch.equal(batch["noise"], again["noise"])
    assert not torch.equal(first[0]["noise"], first[1]["noise"])


def test_accuracy_of_every_episode() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat_interleave(8)
    feature = torch.randn(48, 3, generator=generator) + 0.8 * torch.randn(6, 3, generator=generator)[labels]
    episodes = Episodes(labels, way=4, shot=1, query=5, episodes=10, seed=2)
    expected = []
    for episode in episodes:
        right = 0
        for row, label in zip(episode.query.tolist(), episode.query_labels.tolist(), strict=True):
            distances = [float((feature[row] - feature[shot]).norm()) for shot in episode.support.tolist()]
            right += distances.index(min(distances)) == label
        expected.append(100 * right / 20)
    assert 30 < sum(expected) / 10 < 95
    assert episode_accuracies(NearestClassMean("euclidean"), feature, episodes) == pytest.approx(expected)
