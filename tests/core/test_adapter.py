from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memreplay.core.adapter import Adapter, Recipe
from memreplay.core.batch import jagged
from memreplay.core.heads import LogisticRegression
from memreplay.core.memory_readout import MemoryReadout


class Turn:
    """An encoder of points of the plane: it turns them."""

    def __init__(self, angle: float) -> None:
        self.name, self.angle = "turn", angle

    def fingerprint(self) -> str:
        return f"turned by {self.angle}"

    def description(self) -> dict[str, Any]:
        return {"name": self.name, "fingerprint": self.fingerprint()}

    def tuned_weights(self) -> dict[str, Tensor]:
        return {"angle": torch.tensor([self.angle])}


class PointAdapter(Adapter[Turn]):
    kind: ClassVar[str] = "point adapter"
    shown: ClassVar[str] = "note"

    def teach(self, points: Tensor, labels: list[str]) -> None:
        notes = jagged([f"{x:.2f} {y:.2f}" for x, y in points.tolist()])
        added = self.unknown(sorted(set(labels)))
        self.learn_rows({"feature": points, "note": notes}, labels, added)


def turn_of(described: Mapping[str, Any], weights: dict[str, Tensor]) -> Turn:
    return Turn(float(weights["angle"]))


CENTRES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


def around(*classes: int, n: int = 6, seed: int = 0) -> tuple[Tensor, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.cat([CENTRES[c] + 0.1 * torch.randn(n, 2, generator=generator) for c in classes])
    return points, [f"class {c}" for c in classes for _ in range(n)]


def taught(*classes: int, **recipe: Any) -> PointAdapter:
    adapter = PointAdapter(Turn(0.5), Recipe(**recipe))
    for c in classes:
        adapter.teach(*around(c, seed=c))
    return adapter


def test_classes_learned_one_by_one_are_those_learned_together() -> None:
    points, labels = around(0, 1, 2, seed=9)
    adapter = taught(0, 1, 2)
    assert [answer.label for answer in adapter.answers(points)] == labels
    together = PointAdapter(Turn(0.5))
    parts = [around(c, seed=c) for c in (0, 1, 2)]
    together.teach(torch.cat([points for points, _ in parts]), [name for _, names in parts for name in names])
    torch.testing.assert_close(adapter.probabilities(points), together.probabilities(points), atol=1e-4, rtol=0)
    assert adapter.complete


def test_the_head_is_the_solution_for_the_rows_of_the_memory() -> None:
    adapter = taught(0, 1, 2, head=LogisticRegression(3.0))
    rows = adapter.memory.rows()
    head = LogisticRegression(3.0).fit({"feature": rows["feature"], "label": rows["label"]}, 3)
    points, _ = around(0, 1, 2, seed=4)
    torch.testing.assert_close(adapter.probabilities(points), head(points).softmax(1).detach(), atol=1e-4, rtol=0)


def test_supports_are_the_nearest_rows() -> None:
    adapter = taught(0, 1)
    rows = adapter.memory.rows()
    (answer,) = adapter.answers(torch.tensor([[0.8, 0.9]]), memories=4)
    cosine = F.cosine_similarity(rows["feature"], torch.tensor([[0.8, 0.9]]))
    best = cosine.topk(4)
    assert [row.similarity for row in answer.supports] == pytest.approx(best.values.tolist(), abs=1e-4)
    shown = [f"{x:.2f} {y:.2f}" for x, y in rows["feature"][best.indices].tolist()]
    assert [row.shown for row in answer.supports] == shown


def test_forgetting_a_class_of_a_whole_memory_is_as_if_it_had_never_been() -> None:
    adapter = taught(0, 1, 2)
    assert adapter.forget("class 1") == 6
    without = taught(0, 2)
    points, _ = around(0, 1, 2, seed=4)
    torch.testing.assert_close(adapter.probabilities(points), without.probabilities(points), atol=1e-4, rtol=0)
    adapter.teach(*around(1, seed=1))
    assert list(adapter.names) == [0, 2, 3]


def test_a_class_leaves_a_memory_that_is_not_whole() -> None:
    adapter = taught(0, 1, 2, per_class=2)
    assert not adapter.complete
    assert adapter.solved is not None
    before = adapter.solved.weight.detach().clone()
    adapter.forget("class 1")
    assert torch.equal(adapter.solved.weight, before[[0, 2]])
    assert {answer.label for answer in adapter.answers(CENTRES)} == {"class 0", "class 2"}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_save_gives_the_same_answers(share: float, tmp_path: Path) -> None:
    adapter = taught(0, 1, 2, readout=MemoryReadout("nearest", share))
    adapter.threshold = 0.9
    adapter.forget("class 0")
    adapter.save(tmp_path)
    loaded = PointAdapter.read(tmp_path, turn_of)
    points, _ = around(0, 1, 2, 3, seed=4)
    assert loaded.answers(points) == adapter.answers(points)
    assert None in [answer.label for answer in loaded.answers(points)]
    for one in (loaded, adapter):
        one.teach(*around(3))
    assert loaded.answers(points) == adapter.answers(points)
    assert list(loaded.names) == [1, 2, 3]


def test_what_is_not_the_right_save_is_refused(tmp_path: Path) -> None:
    taught(0, 1).save(tmp_path)
    expected = r"fingerprint turned by 0\.25; the adapter was made with turn, turned by 0\.5"
    with pytest.raises(ValueError, match=expected):
        PointAdapter.read(tmp_path, lambda *_: Turn(0.25))

    class Other(PointAdapter):
        kind: ClassVar[str] = "other adapter"

    with pytest.raises(ValueError, match="holds no other adapter; its kind is 'point adapter'"):
        Other.read(tmp_path, turn_of)


def test_nothing_to_learn() -> None:
    adapter = taught(0)
    with pytest.raises(ValueError, match="nothing to learn"):
        adapter.learn_rows({"feature": torch.empty(0, 2)}, [], [])
    assert len(adapter.memory) == 6
