"""A store that was filled in inference mode can be written to outside it, and the other way round."""

import pytest
import torch

from memreplay import Growable, Plain, Quantized, Store
from memreplay.core.stores import ColumnKind


@pytest.mark.parametrize("kind", [Plain(), Quantized(), Growable()], ids=repr)
def test_inference_mode_comes_and_goes(kind: ColumnKind) -> None:
    def batch(n: int = 8) -> dict[str, torch.Tensor]:
        return {"feature": torch.ones(n, 4), "label": torch.arange(n)}

    store = Store(50, columns={"feature": kind})
    with torch.inference_mode():
        store.add(batch())
    store.add(batch())
    with torch.inference_mode():
        store.add(batch())
        store.resize(100)
    store.add(batch(40))
    store.remove(store.draw(4))
    store.update(store.draw(2), feature=torch.zeros(2, 4))
    assert len(store) == 60
    assert (store.rows()["feature"].sum(1) == 0).sum() == 2
