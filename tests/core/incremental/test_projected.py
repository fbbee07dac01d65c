import pytest
import torch
import torch.nn.functional as F

from memreplay.core.incremental import ProjectedReplay


def rows(classes: range, n: int, seed: int) -> dict[str, torch.Tensor]:
    label = torch.tensor(list(classes)).repeat_interleave(n)
    noise = torch.randn(len(label), 8, generator=torch.Generator().manual_seed(seed))
    return {"feature": 3 * torch.eye(8)[label] + 0.5 * noise, "label": label}


def learned(**options: object) -> ProjectedReplay:
    method = ProjectedReplay(6, dim=8, hidden=32, first=60, later=40, later_lr=3e-3, **options)  # type: ignore[arg-type]
    method.learn(rows(range(4), 30, 1), None, 4)
    method.learn(rows(range(4, 6), 5, 2), None, 6)
    return method


def test_old_and_new_classes_are_known_and_no_row_is_kept() -> None:
    method, test = learned(), rows(range(6), 40, 3)
    assert method.head is not None
    right = method.head(test["feature"]).argmax(1) == test["label"]
    assert right[test["label"] < 4].float().mean() > 0.9
    assert right[test["label"] >= 4].float().mean() > 0.8
    assert method.nbytes == method.memory.nbytes < 8 * (6 * 8 + 8 * 8 + 3 * 6)


def test_logits_are_cosines_with_the_directions() -> None:
    method = learned()
    network, x = method.network, torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert network is not None
    projected = network.outer(F.leaky_relu(network.inner(x), 0.1))
    cosines = F.cosine_similarity(projected[:, None], network.directions[None], dim=2)
    torch.testing.assert_close(network(x), 16.0 * cosines)
    network.seen = 4
    assert network(x).shape == (5, 4)


def test_a_seed_repeats() -> None:
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    said = [learned(seed=seed).head(x) for seed in (0, 0, 1)]  # type: ignore[misc]
    assert torch.equal(said[0], said[1])
    assert not torch.equal(said[0], said[2])


def test_more_classes_than_were_foreseen() -> None:
    with pytest.raises(ValueError, match="classes is 7; the method was made for 6"):
        ProjectedReplay(6, dim=8).learn(rows(range(7), 2, 0), None, 7)
