import numpy as np
import torch

from memreplay.vision_cls import digits


def test_digits() -> None:
    train, test = digits("train"), digits("test")
    assert len(train) + len(test) == 1797
    assert train.images.shape[1:] == (1, 8, 8)
    assert train.images.dtype == torch.float32
    assert (train.images.min(), train.images.max()) == (0, 1)
    assert train.labels.dtype == torch.int64
    shares = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert shares.sub(0.3).abs().max() < 0.01
    assert torch.equal(digits("test").images, test.images)

    from sklearn.datasets import load_digits

    source = load_digits()
    ours = torch.cat([train.images, test.images]).flatten(1).mul(16).numpy()
    assert np.array_equal(np.sort(ours @ np.arange(64)), np.sort(source.data @ np.arange(64)))
