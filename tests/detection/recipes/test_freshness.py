from dataclasses import replace
from pathlib import Path

import pytest

from memreplay.detection import demo
from memreplay.detection.memory import ROIMemory
from memreplay.detection.recipes import freshness
from memreplay.detection.regions import extract, fill, refilled
from memreplay.detection.scenes import digit_scenes

from ..conftest import TINY


@pytest.mark.slow
def test_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "BASE", replace(demo.BASE, steps=3))
    monkeypatch.setattr(demo, "TUNING", replace(demo.TUNING, steps=1, passes=1))
    monkeypatch.setattr(freshness, "DRAWS", 1)
    found = freshness.reproduce(seeds=1, data=None, out=tmp_path, only=())
    rows = {(row.name, row.metric): row for row in found.rows}
    assert {name for name, _ in rows} == {"before", *freshness.WRITTEN}
    assert 0 < rows["throughout", "distance of features"].ours < 2
    for options, expected in (({"seeds": 0, "only": ()}, "seeds is 0"), ({"seeds": 1, "only": ("x",)}, "only is 'x'")):
        with pytest.raises(ValueError, match=expected):
            freshness.reproduce(data=None, out=tmp_path, **options)  # type: ignore[arg-type]


def test_regions_extracted_again_are_of_the_same_images_and_fresh() -> None:
    data = digit_scenes(8, [0, 1, 2], size=48, seed=1)
    old, new = TINY.build(3, seed=0), TINY.build(3, seed=1)
    memory = fill(ROIMemory.of_rows(20, 10, logits=True), extract(old, data.first(3)))
    again = refilled(memory, ROIMemory.of_rows(20, 10, logits=True), new, data)
    assert set(again.rows()["source"].tolist()) <= set(memory.rows()["source"].tolist()) <= {0, 1, 2}
    assert freshness.staleness(memory, old, data) < 1e-3  # half precision
    assert freshness.staleness(memory, new, data) > 0.1
    assert freshness.staleness(again, new, data) < 1e-3
