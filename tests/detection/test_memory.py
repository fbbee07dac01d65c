from pathlib import Path

import pytest
import torch

from memreplay.core.retrievers import Nearest
from memreplay.detection.memory import ROIMemory

from .conftest import regions


def filled(**options: object) -> ROIMemory:
    memory = ROIMemory.of_rows(12, 6, logits=True, **options)  # type: ignore[arg-type]
    memory.add(regions(90))
    return memory


def test_classes_are_balanced_and_background_is_apart() -> None:
    memory = filled()
    assert memory.summary()["classes"] == {0: 6, 1: 6}
    assert memory.summary()["background"] == 6
    assert len(memory) == 18


def test_draw_has_the_share_of_objects_and_rows_as_they_were() -> None:
    memory = filled(positive=0.25)
    given = regions(90)
    drawn = memory.draw(8)
    assert (drawn["label"] >= 0).sum() == 2
    at = drawn["source"]
    assert torch.equal(drawn["label"], given["label"][at])
    assert torch.equal(drawn["proposal"], given["proposal"][at])
    assert torch.allclose(drawn["feature"], given["feature"][at], atol=2e-3)
    assert drawn["feature"].shape == (8, 8, 3, 3)


def test_draw_by_similarity_is_of_objects_alone() -> None:
    memory = filled()
    rows = memory.rows()
    wanted = int((rows["label"] >= 0).nonzero()[3])
    drawn = memory.draw(2, Nearest("feature"), {"feature": rows["feature"][wanted : wanted + 1]})
    assert drawn["source"][0] == rows["source"][wanted]
    assert drawn["label"].tolist()[1] == -1


def test_without_background_all_are_objects() -> None:
    memory = ROIMemory.of_rows(12, 6)
    rows = regions(9)
    memory.add({name: values[rows["label"] >= 0] for name, values in rows.items() if name != "logits"})
    assert len(memory.draw(4)) == 4
    assert len(ROIMemory.of_rows(12, 6).draw(4)) == 0


def test_forgetting_takes_rows_and_what_others_say_of_the_class() -> None:
    memory = filled()
    assert memory.forget(0) == 6
    rows = memory.rows()
    assert set(rows["label"].tolist()) == {-1, 1}
    assert (rows["logits"][:, 1] == -1e4).all()
    assert (rows["logits"][:, [0, 2]].abs() < 10).all()


def test_logits_widen_with_new_classes() -> None:
    memory = filled()
    memory.objects.resize(20)  # type: ignore[union-attr]
    rows = {name: values[2:3] for name, values in regions(3).items()}
    rows["label"], rows["logits"] = torch.tensor([2]), torch.zeros(1, 4)
    memory.add(rows)
    held = memory.rows()
    assert held["logits"].shape[1] == 4
    assert held["logits"][held["label"] != 2, 3].isnan().all()


@pytest.mark.parametrize("kind", ["rows", "statistics"])
def test_saved_and_loaded_it_draws_the_same(kind: str, tmp_path: Path) -> None:
    memory = ROIMemory.of_rows(12, 6, logits=True, fingerprint="f") if kind == "rows" else ROIMemory.of_statistics()
    memory.add(regions(90))
    memory.save(tmp_path)
    loaded = ROIMemory.load(tmp_path)
    assert loaded.fingerprint == memory.fingerprint
    assert loaded.nbytes == memory.nbytes
    one, other = memory.draw(8), loaded.draw(8)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert loaded.add(regions(30, seed=1)).tolist() == memory.add(regions(30, seed=1)).tolist()


def test_statistics_give_features_without_boxes() -> None:
    memory = ROIMemory.of_statistics()
    memory.add(regions(90))
    drawn = memory.draw(2000)
    assert set(drawn.keys()) == {"feature", "label"}
    assert drawn["feature"].shape[1:] == (8, 3, 3)
    rows = regions(90)
    for label in (-1, 0, 1):
        expected = rows["feature"][rows["label"] == label].mean(0)
        assert (drawn["feature"][drawn["label"] == label].mean(0) - expected).abs().max() < 0.3
    with pytest.raises(TypeError, match="statistics"):
        memory.rows()


def test_another_backbone_or_pooler_is_refused() -> None:
    memory = filled(fingerprint="one")
    memory.check("one", (8, 3, 3))
    with pytest.raises(ValueError, match="backbone and pooler one, the detector has other"):
        memory.check("other", (8, 3, 3))
    with pytest.raises(ValueError, match=r"features of shape \(8, 3, 3\); the detector pools \(8, 7, 7\)"):
        memory.check("one", (8, 7, 7))


def test_bad_rows_are_refused() -> None:
    memory = filled()
    rows = regions(3)
    with pytest.raises(ValueError, match=r"feature has shape \(3, 8, 2, 2\)"):
        memory.add({**rows, "feature": torch.zeros(3, 8, 2, 2)})
    with pytest.raises(ValueError, match=r"lacks \['logits'\]"):
        memory.add({name: values for name, values in rows.items() if name != "logits"})
    with pytest.raises(ValueError, match="positive is 1"):
        ROIMemory.of_rows(positive=1)
    with pytest.raises(ValueError, match="n is -1"):
        memory.draw(-1)


def test_shuffled_labels_are_the_same_labels_elsewhere() -> None:
    memory = filled()
    before = memory.objects.rows()  # type: ignore[union-attr]
    memory.shuffle_labels(torch.Generator().manual_seed(0))
    after = memory.objects.rows()  # type: ignore[union-attr]
    assert torch.equal(before["feature"], after["feature"])
    assert not torch.equal(before["label"], after["label"])
    assert torch.equal(before["label"].sort().values, after["label"].sort().values)
    with pytest.raises(TypeError, match="statistics"):
        ROIMemory.of_statistics().shuffle_labels(torch.Generator())
