import torch
import torch.nn.functional as F

from memreplay.core.heads import BaselinePlusPlus


def test_it_is_the_stochastic_gradient_descent_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    feature, label = torch.randn(6, 4, generator=generator), torch.arange(6) % 3
    rows = {"feature": feature, "label": label}
    start = BaselinePlusPlus(epochs=0).fit(rows, 3).weight
    assert start.abs().max() <= 0.5
    weight = torch.nn.Parameter(start.detach().clone())
    sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.9, dampening=0.9, weight_decay=0.01)
    for _ in range(7):
        cosine = F.cosine_similarity(feature[:, None], weight[None], dim=2)
        sgd.zero_grad()
        F.cross_entropy(2 * cosine, label).backward()
        sgd.step()
    head = BaselinePlusPlus(epochs=7, batch_size=6, lr=0.1, weight_decay=0.01).fit(rows, 3)
    torch.testing.assert_close(head.weight, weight, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(weight, start, atol=1e-2)
    torch.testing.assert_close(head(feature), 2 * F.cosine_similarity(feature[:, None], weight[None], dim=2))


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    rows = {"feature": torch.eye(6), "label": torch.arange(6)}
    state = torch.get_rng_state()
    heads = [BaselinePlusPlus(epochs=3, seed=seed).fit(rows, 6).weight for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
