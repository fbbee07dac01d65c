import math
import statistics

import numpy as np
import pytest
import torch

from memreplay.core.protocols import Interval, mean_interval, paired_interval
from memreplay.core.protocols.intervals import student_t


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 5, 8, 9, 29, 30, 599, 9999])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_quantiles_equal_those_of_scipy(dof, confidence):
    stats = pytest.importorskip("scipy.stats")
    assert student_t(confidence, dof) == pytest.approx(stats.t.ppf((1 + confidence) / 2, dof), rel=1e-10)


@pytest.mark.parametrize(("dof", "printed"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_quantiles_equal_the_printed_table(dof, printed):
    assert student_t(0.95, dof) == pytest.approx(printed, abs=5e-4)


def test_a_mean_by_hand():
    interval = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert interval.mean == 2.5
    assert interval.half_width == pytest.approx(3.182446 * statistics.stdev([1, 2, 3, 4]) / 2, rel=1e-6)
    assert (interval.low, interval.high) == (interval.mean - interval.half_width, interval.mean + interval.half_width)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    samples = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0)) + 3
    intervals = [mean_interval(sample) for sample in samples]
    hits = sum(interval.low <= 3 <= interval.high for interval in intervals)
    assert abs(hits / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


@pytest.mark.parametrize("values", [[1.0, 2.0], (1, 2), np.array([1.0, 2.0]), torch.tensor([1.0, 2.0])])
def test_values_of_any_origin(values):
    assert mean_interval(values) == mean_interval([1.0, 2.0])


def test_it_prints_as_tables_do():
    assert str(Interval(85.93, 0.512, 10)) == "85.9 ± 0.5"
    assert f"{Interval(85.93, 0.512, 10):.2f}" == "85.93 ± 0.51"
    assert str(mean_interval([85.93])) == "85.9"


def test_one_value_has_no_width():
    interval = mean_interval([3.0])
    assert interval.mean == 3.0
    assert math.isnan(interval.half_width)


def test_pairs_cancel_what_the_seeds_share():
    shared = np.random.default_rng(0).normal(0, 10, size=8)
    difference = paired_interval(shared + 1, shared)
    assert difference.mean == pytest.approx(1)
    assert difference.half_width == pytest.approx(0, abs=1e-12)
    assert paired_interval([1.0, 3.0], [0.0, 0.0]) == mean_interval([1.0, 3.0])


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], torch.zeros(2, 2)])
def test_no_values_are_refused(values):
    with pytest.raises(ValueError, match="values has shape"):
        mean_interval(values)


def test_unpaired_values_are_refused():
    with pytest.raises(ValueError, match="values has 2 numbers and others 1"):
        paired_interval([1.0, 2.0], [1.0])


def test_a_confidence_in_percent_is_refused():
    with pytest.raises(ValueError, match="confidence is 95; expected a number between 0 and 1"):
        mean_interval([1.0, 2.0], confidence=95)
