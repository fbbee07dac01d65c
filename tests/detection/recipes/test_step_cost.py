from pathlib import Path

import pytest

from memreplay.detection.recipes import step_cost
from memreplay.detection.tuning import FineTuning

from ..conftest import TINY

SIZES = {"tiny": step_cost.Size(TINY, FineTuning(images=2, regions=16, replay=8), (48, 64), steps=2)}


def test_times(tmp_path: Path) -> None:
    found = step_cost.reproduce(seeds=2, data=None, out=tmp_path, only=("torchvision",), sizes=SIZES)
    rows = {row.metric: row for row in found.rows}
    assert {row.name for row in found.rows} == {"tiny, torchvision"}
    assert rows["image step ms"].seeds == 2
    assert rows["image step ms"].ours > rows["cached step ms"].ours > 0
    for options, expected in (
        ({"seeds": 0, "only": ()}, "seeds is 0"),
        ({"seeds": 1, "only": ("huge",)}, "only is 'huge'; expected one of demo, voc-subset, full size, torchvision"),
    ):
        with pytest.raises(ValueError, match=expected):
            step_cost.reproduce(data=None, out=tmp_path, **options)  # type: ignore[arg-type]
