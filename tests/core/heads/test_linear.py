import pytest
import torch

from memreplay.core.heads import LinearHead


def test_the_mean_of_two_heads_has_the_mean_of_their_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (LinearHead(torch.randn(3, 4, generator=generator), torch.randn(3)) for _ in range(2))
    x = torch.randn(5, 4, generator=generator)
    torch.testing.assert_close(one.mean_with(other)(x), (one(x) + other(x)) / 2)
    with pytest.raises(ValueError, match="heads have no bias, or a cosine"):
        one.mean_with(LinearHead(torch.eye(3), scale=2.0))
