import pytest
import torch

from memreplay.core.heads import LinearHead


def test_the_mean_of_two_heads_has_the_mean_of_their_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (LinearHead(torch.randn(3, 4, generator=generator), torch.randn(3)) for _ in range(2))
    x = torch.randn(5, 4, generator=generator)
    torch.testing.assert_close(one.mean_with(other)(x), (one(x) + other(x)) / 2)
    torch.testing.assert_close(one.mean_with(other, 0.2)(x), 0.2 * one(x) + 0.8 * other(x))
    with pytest.raises(ValueError, match="heads have no bias, or a cosine"):
        one.mean_with(LinearHead(torch.eye(3), scale=2.0))


def test_a_head_on_a_half_reads_nothing_else() -> None:
    head = LinearHead(torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([0.5, 0.0]))
    vectors = torch.tensor([[9.0, 9.0, 0.6, 0.8]]) / 2**0.5
    torch.testing.assert_close(head.on_half(1)(vectors), torch.tensor([[2.7, 1.0]]))
    torch.testing.assert_close(head.on_half(0)(vectors), torch.tensor([[27.5, 18.0]]))
    with pytest.raises(ValueError, match="the head is a cosine"):
        LinearHead(torch.eye(2), scale=2.0).on_half(0)
