import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memreplay.core.protocols import (
    AccuracyMatrix,
    accuracy,
    accuracy_by_group,
    base_novel,
    harmonic_mean,
    per_class_accuracy,
)

TRUTH = [0, 0, 0, 1, 1, 2, 2, 2]
GUESS = [0, 0, 1, 1, 2, 2, 2, 2]


def test_accuracy_by_hand():
    assert accuracy(GUESS, TRUTH) == 75.0
    assert accuracy(torch.tensor(GUESS), np.array(TRUTH)) == 75.0
    assert per_class_accuracy(GUESS, TRUTH) == {0: pytest.approx(200 / 3), 1: 50.0, 2: 100.0}
    assert accuracy_by_group(GUESS, TRUTH, [[0], torch.tensor([1, 2]), [5]]) == [
        pytest.approx(200 / 3),
        80.0,
        pytest.approx(math.nan, nan_ok=True),
    ]


def test_base_and_novel_by_hand():
    result = base_novel(GUESS, TRUTH, base=[0, 1])
    assert result.base == 60.0
    assert result.novel == 100.0
    assert result.harmonic == 75.0
    assert result.overall == 75.0


def test_before_the_first_novel_class_there_is_no_novel_accuracy():
    result = base_novel(GUESS, TRUTH, base=[0, 1, 2])
    assert result.base == result.overall == 75.0
    assert math.isnan(result.novel)
    assert math.isnan(result.harmonic)


def test_harmonic_mean_is_zero_where_a_side_is_lost():
    assert harmonic_mean(80.0, 0.0) == harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(50.0, 50.0) == 50.0


def test_predictions_must_match_the_labels():
    with pytest.raises(ValueError, match="predicted has 2 rows and labels 3"):
        accuracy([0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="predicted is float32"):
        accuracy(torch.rand(3), [0, 1, 2])


@pytest.fixture
def matrix():
    return AccuracyMatrix([[90.0], [60.0, 80.0], [70.0, 50.0, 100.0]], sizes=[60, 20, 20])


def test_matrix_by_hand(matrix):
    assert matrix.overall == pytest.approx([90.0, 65.0, 72.0])
    assert matrix.average_accuracy == pytest.approx(220 / 3)
    assert matrix.final_accuracy == pytest.approx(72.0)
    assert matrix.average_incremental_accuracy == pytest.approx((90 + 65 + 72) / 3)
    assert matrix.performance_drop == pytest.approx(18.0)
    assert matrix.forgetting == pytest.approx(((90 - 70) + (80 - 50)) / 2)
    assert matrix.backward_transfer == pytest.approx(((70 - 90) + (50 - 80)) / 2)


def test_forgetting_counts_from_the_best_and_backward_transfer_from_the_first():
    recovered = AccuracyMatrix([[50.0], [80.0, 90.0], [70.0, 90.0, 90.0]])
    assert recovered.forgetting == pytest.approx((80 - 70) / 2)
    assert recovered.backward_transfer == pytest.approx((70 - 50) / 2)


def test_nothing_is_known_above_the_diagonal(matrix):
    values = matrix.values
    assert values.shape == (3, 3)
    assert values.isnan().tolist() == [[False, True, True], [False, False, True], [False, False, False]]
    values.zero_()
    assert matrix.final_accuracy == pytest.approx(72.0)


def test_forward_transfer_by_hand():
    full = AccuracyMatrix([[90.0, 30.0, 5.0], [60.0, 80.0, 25.0], [70.0, 50.0, 100.0]])
    assert full.forward_transfer([10.0, 20.0, 10.0]) == pytest.approx(((30 - 20) + (25 - 10)) / 2)
    assert full.average_accuracy == pytest.approx(220 / 3)


def test_forward_transfer_needs_what_it_is_made_of(matrix):
    with pytest.raises(ValueError, match="rows has no accuracy on the next session"):
        matrix.forward_transfer([0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="baseline has 2 numbers; expected 3"):
        matrix.forward_transfer([0.0, 0.0])


def test_after_one_session_nothing_can_be_forgotten():
    first = AccuracyMatrix([[90.0]])
    assert first.final_accuracy == first.average_accuracy == first.average_incremental_accuracy == 90.0
    assert first.performance_drop == 0.0
    assert math.isnan(first.forgetting)
    assert math.isnan(first.backward_transfer)


def test_equal_sessions_need_no_sizes():
    rows = [[90.0], [60.0, 80.0]]
    assert AccuracyMatrix(rows).overall == AccuracyMatrix(rows, sizes=[7, 7]).overall == [90.0, 70.0]


@given(st.integers(2, 6).flatmap(lambda n: arrays(np.float64, (n, n), elements=st.floats(0, 100))), st.integers(0, 99))
def test_matrix_against_loops(values, seed):
    n = len(values)
    sizes = np.random.default_rng(seed).integers(1, 50, n)
    matrix = AccuracyMatrix([row[: i + 1] for i, row in enumerate(values)], sizes)
    overall = [np.average(values[i, : i + 1], weights=sizes[: i + 1]) for i in range(n)]
    drops = [max(values[i, j] for i in range(j, n - 1)) - values[n - 1, j] for j in range(n - 1)]
    assert matrix.overall == pytest.approx(overall)
    assert matrix.forgetting == pytest.approx(np.mean(drops))
    assert matrix.backward_transfer == pytest.approx(np.mean([values[n - 1, j] - values[j, j] for j in range(n - 1)]))
    assert matrix.average_incremental_accuracy == pytest.approx(np.mean(overall))
    assert matrix.forgetting >= -matrix.backward_transfer - 1e-9


def test_the_overall_accuracy_is_that_of_all_rows_together():
    generator = torch.Generator().manual_seed(0)
    truth, guess = (torch.randint(6, (500,), generator=generator) for _ in range(2))
    guess = torch.where(torch.rand(500, generator=generator) < 0.5, truth, guess)
    groups = [[0, 1, 2], [3, 4], [5]]
    sizes = [int(torch.isin(truth, torch.tensor(group)).sum()) for group in groups]
    row = accuracy_by_group(guess, truth, groups)
    matrix = AccuracyMatrix([row, row, row], sizes)
    assert matrix.final_accuracy == pytest.approx(accuracy(guess, truth))


@pytest.mark.parametrize(
    ("rows", "sizes", "message"),
    [
        ([], None, "rows is empty"),
        ([[1.0], [1.0]], None, r"rows\[1\] is \[1.0\]; expected accuracies on sessions 0 to 1"),
        ([[1.0], [math.nan, 1.0]], None, r"rows\[1\]"),
        ([[1.0], [1.0, 2.0]], [5], "sizes is .*expected at least 2"),
        ([[1.0]], [0], "expected at least 1 positive"),
    ],
)
def test_incomplete_matrices_are_refused(rows, sizes, message):
    with pytest.raises(ValueError, match=message):
        AccuracyMatrix(rows, sizes)
