import pytest
import torch

from memreplay import Store
from memreplay.core.reporting import staleness


def store_of(encoder: torch.nn.Module) -> Store:
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(20, 5, generator=generator), torch.arange(20) % 2 + 3
    store = Store(20)
    store.add({"input": inputs, "feature": encoder(inputs), "label": labels})
    return store


def test_cosines_are_those_of_each_class() -> None:
    torch.manual_seed(0)
    old, new = torch.nn.Linear(5, 4), torch.nn.Linear(5, 4)
    store = store_of(old)
    found = staleness(store.rows(), new, batch_size=7)
    rows = store.rows()
    expected = torch.cosine_similarity(rows["feature"], new(rows["input"])).detach().double()
    torch.testing.assert_close(found.cosines, expected, atol=1e-6, rtol=0)
    assert torch.equal(found.ids, rows.ids)
    assert found.of_all.mean == pytest.approx(float(expected.mean()), abs=1e-6)
    for number in (3, 4):
        own = expected[rows["label"] == number]
        drift = found.of_class[number]
        assert (drift.rows, drift.mean) == (10, pytest.approx(float(own.mean()), abs=1e-6))
        assert drift.least == pytest.approx(float(own.min()), abs=1e-6)
    means = [drift.mean for drift in found.of_class.values()]
    assert means == sorted(means)


def test_what_was_refreshed_is_not_stale() -> None:
    torch.manual_seed(0)
    old, new = torch.nn.Linear(5, 4), torch.nn.Linear(5, 4)
    store = store_of(old)
    assert staleness(store.rows(), new).of_all.mean < 0.9
    store.refresh(new)
    assert staleness(store.rows(), new).of_all.least == pytest.approx(1)


def test_mistakes_are_named() -> None:
    rows = store_of(torch.nn.Linear(5, 4)).rows()
    with pytest.raises(ValueError, match=r"read is 'image'; expected one of the columns \['feature'"):
        staleness(rows, torch.nn.Linear(5, 4), read="image")
    with pytest.raises(ValueError, match=r"encoder gave shape \(20, 3\); expected \(20, 4\)"):
        staleness(rows, torch.nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r"batch_size is 0; expected at least 1"):
        staleness(rows, torch.nn.Linear(5, 4), batch_size=0)
