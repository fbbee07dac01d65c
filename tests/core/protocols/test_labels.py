import numpy as np
import pytest
import torch

from memreplay.core.protocols import check_shots
from memreplay.core.protocols.labels import as_integers, rows_by_class
from memreplay.core.protocols.seeding import generator_at


@pytest.mark.parametrize(
    "labels",
    [
        [3, 1, 3],
        (3, 1, 3),
        np.array([3, 1, 3], dtype=np.uint8),
        np.array([3, 1, 3], dtype=np.int32),
        torch.tensor([3, 1, 3]),
    ],
)
def test_integers_of_any_origin_become_int64(labels):
    values = as_integers(labels, "labels")
    assert values.dtype is torch.int64
    assert values.tolist() == [3, 1, 3]


def test_integers_are_a_copy():
    source = np.array([1, 2])
    values = as_integers(source, "labels")
    source[0] = 9
    assert values.tolist() == [1, 2]


@pytest.mark.parametrize(
    "labels", [[0.5, 1.0], ["cat", "dog"], [[0, 1]], [[0], [1, 2]], torch.zeros(3), torch.tensor(1)]
)
def test_anything_but_integers_in_one_dimension_is_refused(labels):
    with pytest.raises(ValueError, match=r"labels .*expected integers of shape"):
        as_integers(labels, "labels")


def test_rows_by_class_lists_every_row_once():
    labels = torch.tensor([2, 0, 2, -1, 0])
    rows = rows_by_class(labels)
    assert list(rows) == [-1, 0, 2]
    assert [index.tolist() for index in rows.values()] == [[3], [1, 4], [0, 2]]


def test_no_labels_are_refused():
    with pytest.raises(ValueError, match="labels is empty"):
        rows_by_class([])


def test_exact_shots_pass():
    check_shots([0, 0, 1, 1, 2], index=[0, 1, 2, 3], classes=[0, 1], shot=2)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 1, 2], "class 1 has 1 rows; expected shot = 2"),
        ([0, 1, 2, 3, 4], "row of class 2"),
        ([0, 0, 2, 3], "1 repeated rows"),
        ([0, 1], "class 1 has 0 rows"),
    ],
)
def test_any_other_number_of_shots_is_found(index, message):
    with pytest.raises(ValueError, match=message):
        check_shots([0, 0, 1, 1, 2], index=index, classes=[0, 1], shot=2)


def test_generators_differ_by_seed_and_place_and_leave_the_global_state_alone():
    before = torch.get_rng_state()
    places = [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "a", 11), (2**40, "a", 1)]
    draws = {torch.randint(2**60, (1,), generator=generator_at(*place)).item() for place in places}
    assert len(draws) == len(places)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_from_numpy_is_the_same_seed():
    first, second = generator_at(3, "a"), generator_at(np.int64(3), "a")
    assert torch.equal(first.get_state(), second.get_state())
