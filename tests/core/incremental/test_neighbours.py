import torch
import torch.nn.functional as F

from memreplay.core.incremental import Means, Neighbours
from memreplay.core.memory_readout import MemoryReadout


def test_shares_of_neighbours_and_of_the_method() -> None:
    """By brute force over all rows, as many as are kept."""
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(40, 6, generator=generator)
    label = torch.arange(4).repeat_interleave(10)
    method = Neighbours(Means(), MemoryReadout("nearest", share=0.3, k=5, temperature=0.1), per_class=10, scale=8.0)
    for start, classes in ((0, 2), (20, 3), (30, 4)):
        rows = slice(start, {0: 20, 20: 30, 30: 40}[start])
        method.learn({"feature": feature[rows], "label": label[rows]}, None, classes)
    x = torch.randn(7, 6, generator=generator)
    cosine, at = (F.normalize(x, dim=1) @ F.normalize(feature, dim=1).T).topk(5)
    votes = torch.zeros(7, 4).scatter_add_(1, label[at], torch.softmax(cosine / 0.1, 1))
    assert method.method.head is not None
    assert method.head is not None
    expected = 0.3 * votes + 0.7 * torch.softmax(8 * method.method.head(x), 1)
    torch.testing.assert_close(method.head(x), expected)


def test_the_memory_is_bounded() -> None:
    method = Neighbours(Means(), per_class=3)
    for number in range(2):
        method.learn({"feature": torch.randn(9, 4), "label": torch.full((9,), number)}, None, number + 1)
    assert method.memory.rows()["label"].sort().values.tolist() == [0, 0, 0, 1, 1, 1]
    assert method.nbytes > method.method.nbytes > 0
