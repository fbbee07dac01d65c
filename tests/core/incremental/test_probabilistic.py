import pytest
import torch
import torch.nn.functional as F
from torch.distributions import MultivariateNormal

from memreplay.core.incremental import Probabilistic

GENERATOR = torch.Generator().manual_seed(0)
CENTRES = torch.randn(9, 5, generator=GENERATOR)
LABEL = torch.cat([torch.arange(6).repeat_interleave(20), torch.arange(6, 9).repeat_interleave(4)])
FEATURE = CENTRES[LABEL] + 0.4 * torch.randn(len(LABEL), 5, generator=GENERATOR)
QUERY = torch.randn(11, 5, generator=GENERATOR)


def learned(shrinkage: float = 0.2, spread: float = 0.3, offset: float = 0.0) -> Probabilistic:
    method = Probabilistic(shrinkage, spread, offset)
    for chosen, classes in ((LABEL < 6, 6), ((LABEL >= 6) & (LABEL < 8), 8), (LABEL == 8, 9)):
        method.learn({"feature": FEATURE[chosen], "label": LABEL[chosen]}, None, classes)
    return method


def test_densities_by_conditioning_a_joint_gaussian() -> None:
    """Without a change of basis: a new row and the mean of the shots are jointly Gaussian."""
    x, query = F.normalize(FEATURE, dim=1).double(), F.normalize(QUERY, dim=1).double()
    means = torch.stack([x[c == LABEL].mean(0) for c in range(9)])
    gap = (x - means[LABEL])[LABEL < 6]
    within = gap.T @ gap / (120 - 6)
    within = 0.8 * within + 0.2 * within.diag().mean() * torch.eye(5)
    centre = means[:6].mean(0)
    apart = means[:6] - centre
    between = apart.T @ apart / 5
    # the spread is towards a multiple of W, which is the identity where W is
    between = 0.7 * between + 0.3 * (torch.linalg.solve(within, between).diag().sum() / 5) * within
    expected = []
    for label, n in zip(range(9), [20] * 6 + [4] * 3, strict=True):
        gain = between @ torch.linalg.inv(between + within / n)
        mean = centre + gain @ (means[label] - centre)
        expected.append(MultivariateNormal(mean, within + between - gain @ between).log_prob(query))
    head = learned().head
    assert head is not None
    found = head(QUERY).double()
    constant = (torch.stack(expected, 1) - found).mean()
    torch.testing.assert_close(found + constant, torch.stack(expected, 1), atol=1e-4, rtol=1e-4)


def test_a_class_of_many_rows_is_a_linear_discriminant() -> None:
    """With n to infinity the posterior is the mean, and the densities share a covariance."""
    head = learned().head
    assert head is not None
    assert (head.variances[:6] - 1).max() < (head.variances[6:] - 1).max()
    assert (head.variances > 1).all()


def test_the_offset_is_for_later_classes() -> None:
    plain, moved = learned().head, learned(offset=3.0).head
    assert plain is not None
    assert moved is not None
    expected = torch.tensor([0.0] * 6 + [3.0] * 3).expand(11, -1)
    torch.testing.assert_close(moved(QUERY) - plain(QUERY), expected, atol=1e-4, rtol=0)


def test_no_row_is_stored() -> None:
    method = learned()
    assert len(method.memory) == 9
    assert method.nbytes == method.memory.nbytes < FEATURE.nbytes


@pytest.mark.parametrize(("options", "message"), [((0.0, 0.5), "shrinkage is 0"), ((0.5, 1.5), "spread is 1.5")])
def test_numbers_out_of_range(options: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Probabilistic(*options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_vectors_of_any_precision(dtype: torch.dtype) -> None:
    head = learned().head
    assert head is not None
    feature = QUERY.to(dtype)
    assert torch.equal(head(feature), head(feature.float()))
