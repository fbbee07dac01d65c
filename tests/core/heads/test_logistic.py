"""Against scikit-learn, an independent solver of the same problem."""

import numpy as np
import pytest
import torch

from memreplay.core.heads import LinearHead, LogisticRegression

linear_model = pytest.importorskip("sklearn.linear_model")


def rows(n: int = 60, classes: int = 4, dim: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(n) % classes
    centre = torch.randn(classes, dim, generator=generator)
    return {"feature": centre[label] + torch.randn(n, dim, generator=generator), "label": label}


@pytest.mark.parametrize("strength", [0.1, 10.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_solution_is_that_of_scikit_learn(strength: float, weighted: bool) -> None:
    batch = rows()
    weight = 1 + torch.arange(60.0) % 3 if weighted else None
    if weight is not None:
        batch["weight"] = weight
    head = LogisticRegression(strength, tolerance=1e-9).fit(batch, 4)
    model = linear_model.LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)
    model.fit(batch["feature"].double().numpy(), batch["label"].numpy(), weight if weight is None else weight.numpy())
    assert np.allclose(head.weight.detach(), model.coef_, atol=2e-3 * np.abs(model.coef_).max())
    # the intercepts are not penalised: they are known but for a common constant
    bias = head.bias.detach().numpy()
    assert np.allclose(bias - bias.mean(), model.intercept_ - model.intercept_.mean(), atol=5e-3)


def test_a_prior_holds_what_the_rows_do_not_show() -> None:
    batch = rows()
    before = LogisticRegression(10.0).fit(batch, 4)
    new = {"feature": batch["feature"][:2] + 3, "label": torch.tensor([4, 4])}
    free = LogisticRegression(10.0).fit(new, 5, before)
    held = LogisticRegression(10.0).fit(new, 5, before, prior=True)
    accuracy = [
        float((head(batch["feature"]).argmax(1) == batch["label"]).double().mean()) for head in (before, free, held)
    ]
    assert accuracy[2] > accuracy[0] - 0.25
    assert accuracy[1] < 0.5
    assert held(new["feature"]).argmax(1).tolist() == [4, 4]


def test_where_the_search_starts_does_not_matter() -> None:
    batch = rows()
    start = LinearHead(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), torch.zeros(4))
    cold, warm = LogisticRegression(1.0).fit(batch, 4), LogisticRegression(1.0).fit(batch, 4, start)
    assert torch.allclose(cold.weight, warm.weight, atol=1e-3)


def test_cross_validation_prefers_a_penalty_for_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = {"feature": torch.randn(40, 8, generator=generator), "label": torch.arange(40) % 2}
    clean = {"feature": torch.eye(2)[torch.arange(40) % 2], "label": torch.arange(40) % 2}
    norms = [LogisticRegression(None).fit(b, 2).weight.norm().item() for b in (noise, clean)]
    assert norms[0] < LogisticRegression(100.0).fit(noise, 2).weight.norm().item()
    assert norms[1] == pytest.approx(LogisticRegression(100.0).fit(clean, 2).weight.norm().item(), rel=1e-3)


def test_classes_of_a_single_row_can_be_cross_validated() -> None:
    batch = {"feature": torch.eye(3), "label": torch.arange(3)}
    assert LogisticRegression(None).fit(batch, 3)(torch.eye(3)).argmax(1).tolist() == [0, 1, 2]


def test_a_strength_must_be_positive() -> None:
    with pytest.raises(ValueError, match="C is 0; expected a number above 0"):
        LogisticRegression(0)
