from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memreplay.core.gradients import DenseGradients, JoinedGradients, LinearGradients


def dense(inputs: Tensor, errors: Tensor, weight: bool, bias: bool) -> Tensor:
    """The gradients of each row, place by place."""
    rows = []
    for a, e in zip(inputs.double(), errors.double(), strict=True):
        of_weight = sum(torch.outer(y, x).flatten() for x, y in zip(a, e, strict=True))
        rows.append(torch.cat([of_weight] * weight + [e.sum(0)] * bias))
    return torch.stack(rows)


# 1 place, or so many that pairs of places take more room than gradients
@pytest.mark.parametrize("places", [1, 2, 30])
@pytest.mark.parametrize(("weight", "bias"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("m", [1, 4, 8])
def test_products_and_lengths_are_those_of_the_gradients(places, weight, bias, m):
    g = torch.Generator().manual_seed(0)
    inputs, errors = torch.randn(9, places, 6, generator=g), torch.randn(9, places, 5, generator=g)
    products, squares = LinearGradients(inputs, errors, weight=weight, bias=bias).products(m)
    expected = dense(inputs, errors, weight, bias)
    torch.testing.assert_close(products.double(), expected[:m] @ expected[m:].T, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(squares.double(), expected.square().sum(1), rtol=1e-5, atol=1e-4)
    for found in LinearGradients(inputs, errors), DenseGradients(expected):
        assert len(found) == 9


def test_rows_of_one_place_need_no_axis_for_it():
    inputs, errors = torch.randn(5, 4), torch.randn(5, 3)
    flat = LinearGradients(inputs, errors).products(2)
    for found, expected in zip(
        flat, LinearGradients(inputs.unsqueeze(1), errors.unsqueeze(1)).products(2), strict=True
    ):
        assert torch.equal(found, expected)


def test_groups_of_parameters_add_up():
    a, b = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    products, squares = JoinedGradients([DenseGradients(a), DenseGradients(b)]).products(2)
    whole = torch.cat([a, b], 1)
    torch.testing.assert_close(products, whole[:2] @ whole[2:].T)
    torch.testing.assert_close(squares, whole.square().sum(1))


def test_the_squares_of_tiny_errors_do_not_vanish():
    products, squares = LinearGradients(torch.ones(2, 40), torch.full((2, 30), 1e-30)).products(1)
    assert products.item() == pytest.approx(41 * 30 * 1e-60, rel=1e-6)
    assert squares.tolist() == pytest.approx([41 * 30 * 1e-60] * 2, rel=1e-6)


def test_half_precision_is_calculated_in_float32():
    values = torch.full((2, 400), 20.0, dtype=torch.float16)
    assert DenseGradients(values).products(1)[0].item() == 160000
