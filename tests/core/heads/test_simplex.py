import pytest
import torch

from memreplay.core.heads import simplex


@pytest.mark.parametrize(("classes", "dim"), [(2, 2), (5, 5), (10, 64)])
def test_any_two_are_as_far_apart_as_can_be(classes: int, dim: int) -> None:
    frame = simplex(classes, dim, torch.Generator().manual_seed(0))
    cosines = frame @ frame.T
    expected = torch.full((classes, classes), -1 / (classes - 1)).fill_diagonal_(1)
    torch.testing.assert_close(cosines, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(frame.sum(0), torch.zeros(dim), atol=1e-6, rtol=0)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="classes is 5 and dim is 4"):
        simplex(5, 4, torch.Generator())
    with pytest.raises(ValueError, match="classes is 1"):
        simplex(1, 4, torch.Generator())
