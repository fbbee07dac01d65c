import pytest
import torch
from torch import nn

from memreplay.vision_cls import MLP, Classifier


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("seeded", [False, True])
def test_expand_keeps_the_old_rows(seeded: bool, generator: torch.Generator) -> None:
    model = MLP(1, 2, 2, hidden=(3,))
    with torch.no_grad():  # whole numbers, whose products are exact in whatever order they are added
        for values in model.parameters():
            values.copy_(torch.randint(-3, 4, values.shape, generator=generator))
    x = torch.randint(-3, 4, (6, 1, 2, 2), generator=generator).float()
    before, head = model(x), model.head
    model.expand(5, generator if seeded else None)
    after = model(x)
    assert torch.equal(model.head.weight[:2], head.weight)
    assert torch.equal(model.head.bias[:2], head.bias)
    torch.testing.assert_close(after[:, :2], before, rtol=0, atol=0)
    assert after.shape == (6, 5)
    assert bool(after[:, 2:].any()) == seeded
    assert model.head.weight[2:].abs().max() <= 3**-0.5


def test_expand_same_generator_same_rows() -> None:
    heads = []
    for _ in range(2):
        model = Classifier(nn.Flatten(), nn.Linear(4, 2, bias=False, dtype=torch.float64))
        model.expand(4, torch.Generator().manual_seed(3))
        heads.append(model.head)
    assert torch.equal(heads[0].weight[2:], heads[1].weight[2:])
    assert heads[0].bias is None
    assert heads[0].weight.dtype == torch.float64


def test_expand_leaves_the_global_generator_alone_and_keeps_frozen_frozen() -> None:
    model = MLP(1, 2, 2)
    model.head.requires_grad_(False)
    state = torch.get_rng_state()
    model.expand(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(values.requires_grad for values in model.head.parameters())


def test_expand_refuses_to_shrink() -> None:
    model = MLP(1, 2, 3)
    with pytest.raises(ValueError, match="classes is 2; expected at least the 3"):
        model.expand(2)
    head = model.head
    model.expand(3)
    assert model.head is head
