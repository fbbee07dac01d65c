import torch
import torch.nn.functional as F

from memreplay.core.heads import BaselinePlusPlus


def test_the_first_step_by_hand() -> None:
    feature = torch.tensor([[3.0, 4.0], [1.0, 0.0]], dtype=torch.float64)
    rows = {"feature": feature.float(), "label": torch.tensor([0, 1])}
    start = BaselinePlusPlus(epochs=0).fit(rows, 2).weight.detach().double()
    assert start.abs().max() <= 0.5**0.5
    after = BaselinePlusPlus(epochs=1, lr=0.1, weight_decay=0.01).fit(rows, 2)
    unit, length = F.normalize(feature, dim=1), start.norm(dim=1, keepdim=True)
    cosine = unit @ (start / length).T
    error = ((2 * cosine).softmax(1) - torch.eye(2)) / 2
    slope = torch.zeros(2, 2, dtype=torch.float64)
    for c in range(2):
        for i in range(2):
            slope[c] += 2 * error[i, c] * (unit[i] - cosine[i, c] * start[c] / length[c]) / length[c]
    torch.testing.assert_close(after.weight.detach().double(), start - 0.1 * (slope + 0.01 * start), atol=1e-6, rtol=0)
    torch.testing.assert_close(after.scale.detach().item(), 2.0)


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    rows = {"feature": torch.eye(6), "label": torch.arange(6)}
    state = torch.get_rng_state()
    heads = [BaselinePlusPlus(epochs=3, seed=seed).fit(rows, 6).weight for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
