import math

import pytest
import torch

from memreplay.core.stores.calibration import tukey


def test_tukey_by_hand():
    feature = torch.tensor([[1.0, 4.0], [9.0, 16.0]])
    assert tukey(feature).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert tukey(feature, 1.0).tolist() == feature.tolist()
    assert tukey(feature, 0.0)[0, 1].item() == pytest.approx(math.log(4))
    assert tukey(torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("value", "power", "message"),
    [(-1.0, 0.5, "feature has -1; expected non-negative"), (0.0, 0.0, "feature has 0; expected positive")],
)
def test_what_has_no_power_is_refused(value, power, message):
    with pytest.raises(ValueError, match=message):
        tukey(torch.tensor([1.0, value]), power)
