import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from memreplay.core.incremental import RandomProjection
from memreplay.core.incremental.random_projection import GRID

GENERATOR = torch.Generator().manual_seed(0)
FEATURE = torch.randn(90, 8, generator=GENERATOR) + torch.eye(8)[:3].repeat_interleave(30, 0) * 3
LABEL = torch.arange(3).repeat_interleave(30)
QUERY = torch.randn(20, 8, generator=GENERATOR)


def learned(**options: object) -> RandomProjection:
    """Two classes with 30 rows each, then one with five."""
    method = RandomProjection(width=32, **options)  # type: ignore[arg-type]
    method.learn({"feature": FEATURE[:60], "label": LABEL[:60]}, None, 2)
    method.learn({"feature": FEATURE[60:65], "label": LABEL[60:65]}, None, 3)
    return method


@pytest.mark.parametrize("balanced", [False, True])
def test_sessions_are_the_ridge_regression_on_all_rows(balanced: bool) -> None:
    method = learned(ridge=0.03, balanced=balanced, seed=3)
    assert method.head is not None
    feature, label = FEATURE[:65], LABEL[:65]
    hidden, query = (torch.relu(F.normalize(x, dim=1) * 8**0.5 @ method.layer) for x in (feature, QUERY))
    weight = (1 / torch.tensor([30.0, 30.0, 5.0]))[label] if balanced else torch.ones(65)
    scale = float((weight[:, None] * hidden.square()).sum(0).mean())
    ridge = Ridge(alpha=0.03 * scale, fit_intercept=False)
    ridge.fit(hidden.double().numpy(), F.one_hot(label).double().numpy(), sample_weight=weight.double().numpy())
    np.testing.assert_allclose(method.head(QUERY).detach().numpy(), ridge.predict(query.double().numpy()), atol=1e-4)


def test_the_ridge_is_the_best_on_rows_left_out() -> None:
    """A fifth of the first session, of each class; the ridge is held after that."""
    method = learned()
    assert method.ridge in GRID
    chosen = method.ridge
    method.learn({"feature": FEATURE[65:70], "label": LABEL[65:70]}, None, 3)
    assert method.ridge == chosen
    noise = RandomProjection(width=32)
    noise.learn({"feature": torch.randn(60, 8, generator=GENERATOR), "label": LABEL[:60]}, None, 2)
    assert noise.ridge is not None
    assert noise.ridge > 3 * chosen  # there is nothing to be learned


def test_a_seed_repeats_and_another_does_not() -> None:
    heads = [learned(seed=seed).head for seed in (0, 0, 1)]
    said = [head(QUERY) for head in heads if head is not None]
    assert torch.equal(said[0], said[1])
    assert not torch.equal(said[0], said[2])


def test_few_shots_are_not_outvoted_where_classes_are_balanced() -> None:
    right = []
    for balanced in (False, True):
        head = learned(ridge=1.0, balanced=balanced).head
        assert head is not None
        right.append(float((head(FEATURE[65:]).argmax(1) == 2).float().mean()))
    assert right[1] > right[0] + 0.2


def test_a_width_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="width is 0"):
        RandomProjection(0)
