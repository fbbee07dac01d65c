from __future__ import annotations

import pytest

from memreplay.core.mixers import CosineSchedule, LinearSchedule


def test_linear_values_by_hand():
    schedule = LinearSchedule(1.0, 3.0, steps=4)
    assert [schedule.value(step) for step in range(6)] == [1.0, 1.5, 2.0, 2.5, 3.0, 3.0]


def test_cosine_values_by_hand():
    schedule = CosineSchedule(2.0, 0.0, steps=6)
    expected = [2.0, 1.5**0.5 / 2**0.5 + 1, 1.5, 1.0, 0.5, 1 - 0.75**0.5, 0.0, 0.0]  # 1 + cos(30 degrees * step)
    assert [schedule.value(step) for step in range(8)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", [LinearSchedule, CosineSchedule])
def test_bad_arguments_are_named(kind):
    with pytest.raises(ValueError, match="steps is 0; expected at least 1"):
        kind(0.0, 1.0, steps=0)
    with pytest.raises(ValueError, match="step is -1; expected at least 0"):
        kind(0.0, 1.0, steps=1).value(-1)
