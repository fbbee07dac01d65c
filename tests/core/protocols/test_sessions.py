import hashlib
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memreplay.core.protocols import Sessions, check_shots

LABELS = torch.arange(10).repeat(9)[torch.randperm(90, generator=torch.Generator().manual_seed(5))]


def new_classes(sessions):
    return [session.classes.tolist() for session in sessions]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sessions_are_disjoint_complete_and_exact(data):
    base, way, shot = data.draw(st.integers(1, 10)), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    seed = data.draw(st.integers(0, 2**40))
    order = data.draw(st.sampled_from([None, "shuffled"]) | st.permutations(range(10)))
    count = (10 - base) // way
    sessions = Sessions(LABELS, base, way, shot, count, order, seed=seed)
    assert len(sessions) == count + 1
    seen: list[int] = []
    rows: list[int] = []
    for number, session in enumerate(sessions):
        assert session.number == number
        assert len(session.classes) == (way if number else base)
        seen += session.classes.tolist()
        assert session.seen.tolist() == seen
        rows += session.train.tolist()
        if number:
            check_shots(LABELS, session.train, session.classes, shot)
        else:
            assert sorted(session.train.tolist()) == session.test(LABELS).tolist()
        assert torch.equal(LABELS[session.train], session.classes.repeat_interleave(shot if number else 9))
        brute = [row for row, label in enumerate(LABELS.tolist()) if label in seen]
        assert session.test(LABELS).tolist() == brute
        assert sorted(LABELS[session.test(LABELS, new=True)].unique().tolist()) == sorted(session.classes.tolist())
    assert len(set(seen)) == len(seen)
    assert len(set(rows)) == len(rows)
    again = Sessions(LABELS.tolist(), base, way, shot, count, order, seed=seed)
    assert again.digest == sessions.digest


def test_split_mnist_is_five_tasks_of_two_classes_with_all_rows():
    sessions = Sessions(LABELS, base=2, way=2, shot=None)
    assert new_classes(sessions) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert sorted(torch.cat([session.train for session in sessions]).tolist()) == list(range(90))


def test_base_may_list_classes():
    sessions = Sessions(LABELS, base=[7, 2], way=4, shot=1)
    assert new_classes(sessions) == [[7, 2], [0, 1, 3, 4], [5, 6, 8, 9]]


def test_a_class_order_may_leave_classes_out():
    sessions = Sessions(LABELS, base=2, way=1, class_order=[9, 1, 5])
    assert new_classes(sessions) == [[9, 1], [5]]
    assert sessions.class_order.tolist() == [9, 1, 5]


def test_base_shots():
    sessions = Sessions(LABELS, base=4, way=3, shot=2, base_shot=6)
    check_shots(LABELS, sessions[0].train, range(4), 6)


def test_shots_are_nested_and_belong_to_the_class():
    many, few = Sessions(LABELS, 4, 3, shot=7, seed=3), Sessions(LABELS, 4, 3, shot=2, seed=3)
    assert torch.equal(many[1].train.view(3, 7)[:, :2].flatten(), few[1].train)
    other_order = Sessions(LABELS, 4, 3, shot=2, class_order=[9, 8, 7, 6, 5, 4, 3, 2, 1, 0], seed=3)
    class_4, class_5 = few[1].train.view(3, 2)[:2].tolist()
    assert other_order[1].train.view(3, 2).tolist()[:2] == [class_5, class_4]


def test_the_seed_matters_and_the_global_generator_does_not():
    before = torch.get_rng_state()
    digests = {Sessions(LABELS, 4, 2, 5, seed=seed).digest for seed in range(20)}
    orders = {
        tuple(Sessions(LABELS, 4, 2, 5, class_order="shuffled", seed=seed).class_order.tolist()) for seed in range(20)
    }
    assert len(digests) == len(orders) == 20
    assert torch.equal(torch.get_rng_state(), before)


def test_shots_are_drawn_uniformly():
    stats = pytest.importorskip("scipy.stats")
    drawn = torch.cat([Sessions(LABELS, 5, 5, shot=2, seed=seed)[1].train for seed in range(300)])
    counts = torch.bincount(drawn, minlength=90)[torch.isin(LABELS, torch.arange(5, 10))]
    assert int(counts.sum()) == 300 * 10
    # rows drawn without replacement: the statistic is (n - k) / (n - 1) of a multinomial's, here 7/8
    assert stats.chi2.sf(stats.chisquare(counts).statistic * 8 / 7, df=5 * 8) > 0.001


def test_the_digest_is_a_hash_of_classes_and_rows():
    sessions = Sessions([4, 4, 6], base=1, way=1, shot=None)
    content = b""
    for part in ([4], [0, 1], [6], [2]):
        content += struct.pack("<Q", len(part)) + struct.pack(f"<{len(part)}q", *part)
    assert sessions.digest == hashlib.sha256(content).hexdigest()
    assert sessions.digest[:12] in repr(sessions)


def test_labels_become_head_columns():
    sessions = Sessions(LABELS, base=[7, 2], way=4, class_order="shuffled")
    places = sessions.relabel(LABELS)
    assert torch.equal(sessions.class_order[places], LABELS)
    assert sorted(places[sessions[0].train].unique().tolist()) == [0, 1]
    with pytest.raises(ValueError, match="labels has class 12; the sessions have only"):
        sessions.relabel([7, 12])


def test_given_rows_are_taken_as_they_are():
    lists = [np.array([5, 0, 1]), [2], torch.tensor([4])]
    sessions = Sessions.given([0, 1, 5, 0, 8, 1], lists, shot=1)
    assert new_classes(sessions) == [[0, 1], [5], [8]]
    assert [session.train.tolist() for session in sessions] == [[0, 5, 1], [2], [4]]
    assert sessions[1].seen.tolist() == [0, 1, 5]


def test_given_the_rows_of_drawn_sessions_the_same_stream_comes_back():
    drawn = Sessions(LABELS, 4, 3, shot=2)
    assert Sessions.given(LABELS, [session.train for session in drawn], shot=2).digest == drawn.digest


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([], "indices is empty"),
        ([[0], []], r"indices\[1\] is empty"),
        ([[0], [6]], r"indices\[1\] has rows 6 to 6; expected rows 0 to 5"),
        ([[0], [-1]], "expected rows 0 to 5"),
        ([[0, 0]], "repeats a row"),
        ([[0], [2, 3]], "rows of class 0, which came in session 0"),
        ([[0], [1, 5, 2]], "class 1 has 2 rows; expected shot = 1"),
    ],
)
def test_wrong_lists_are_refused(lists, message):
    with pytest.raises(ValueError, match=message):
        Sessions.given([0, 1, 5, 0, 8, 1], lists, shot=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": 0, "way": 2}, "base is 0 classes; expected 1 to 10"),
        ({"base": 11, "way": 2}, "base is 11 classes"),
        ({"base": 4, "way": 4}, "way is 4, which does not divide the 6 classes"),
        ({"base": 4, "way": 4, "sessions": 2}, "sessions is 2 of 4 classes each, but 6 classes are left"),
        ({"base": 4, "way": 0}, "way is 0"),
        ({"base": 4, "way": 2, "shot": 0}, "shot is 0"),
        ({"base": 4, "way": 2, "shot": 10}, "class 4 has 9 rows; expected at least 10 shots"),
        ({"base": 4, "way": 2, "base_shot": 10}, "class 0 has 9 rows; expected at least 10 shots"),
        ({"base": [1, 12], "way": 2}, r"base has \[12\]; the labels have only"),
        ({"base": [1, 1], "way": 2}, "base repeats a class"),
        ({"base": 2, "way": 2, "class_order": "random"}, "class_order is 'random'"),
        ({"base": 2, "way": 2, "class_order": [0, 1, 2, 33]}, r"class_order has \[33\]"),
    ],
)
def test_what_cannot_be_split_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sessions(LABELS, **arguments)
