import pytest
import torch
import torch.nn.functional as F

from memreplay.core.heads import ANIL
from memreplay.core.mixers import Episodic, View


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_inner_steps_are_explicit_gradient_steps(generator: torch.Generator) -> None:
    anil = ANIL(4, way=3, rate=0.3, steps=2, generator=generator).double()
    feature = torch.randn(6, 4, generator=generator).double()
    label = torch.tensor([0, 0, 1, 1, 2, 2])
    weight, bias = anil.head.weight.detach(), torch.zeros(3).double()
    for _ in range(2):
        error = (feature @ weight.T + bias).softmax(1) - F.one_hot(label, 3)
        weight, bias = weight - 0.3 * error.T @ feature / 6, bias - 0.3 * error.mean(0)
    head = anil.fit({"feature": feature, "label": label}, 3)
    torch.testing.assert_close(head.weight, weight)
    torch.testing.assert_close(head.bias, bias)
    assert torch.equal(anil.head.bias, torch.zeros(3).double())


def test_the_gradient_goes_through_the_steps(generator: torch.Generator) -> None:
    anil = ANIL(2, way=2, rate=0.5, steps=3, generator=generator).double()
    label, support = torch.tensor([0, 1, 0, 1]), torch.tensor([True, True, False, False])

    def loss(feature: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            anil.head.weight.copy_(weight)
        return Episodic(anil)(View({"label": label, "support": support}, {"feature": feature}), {})["anil"]

    feature = torch.randn(4, 2, generator=generator).double().requires_grad_()
    weight = anil.head.weight.detach().clone()
    loss(feature, weight).backward()
    step = 1e-6
    for values, slopes in ((feature.detach(), feature.grad), (weight, anil.head.weight.grad)):
        assert slopes is not None
        for place in [(0, 0), (1, 1)]:
            moved = []
            for sign in (1, -1):
                changed = values.clone()
                changed[place] += sign * step
                inputs = (changed, weight) if values is not weight else (feature.detach(), changed)
                moved.append(loss(*inputs).item())
            assert slopes[place].item() == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5)


def test_arguments(generator: torch.Generator) -> None:
    state = torch.get_rng_state()
    anil = ANIL(4, way=3, generator=generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert anil.head.weight.abs().max() <= 0.5
    assert anil(View({}, {}), {}) == {}
    with pytest.raises(ValueError, match="classes is 2; expected 3"):
        anil.fit({"feature": torch.zeros(2, 4), "label": torch.tensor([0, 1])}, 2)
    with pytest.raises(ValueError, match="rate is 0"):
        ANIL(4, way=3, rate=0)
