import torch
import torch.nn.functional as F

from memreplay.core.incremental import Means, calibrated

ROWS = [
    {"feature": torch.tensor([[4.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 3.0]]), "label": torch.tensor([0, 0, 1])},
    {"feature": torch.tensor([[1.0, 1.0, 1.0], [1.0, 3.0, 1.0]]), "label": torch.tensor([2, 2])},
]
MEANS = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 2.0, 1.0]])


def learned(method: Means) -> Means:
    for rows, classes in zip(ROWS, (2, 3), strict=True):
        method.learn(rows, None, classes)
    return method


def test_nearest_class_mean_by_hand() -> None:
    method, x = learned(Means()), torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    assert method.head is not None
    expected = torch.softmax(F.normalize(x, dim=1) @ F.normalize(MEANS, dim=1).T, 1)
    torch.testing.assert_close(method.head(x), expected)
    assert method.nbytes == 3 * 3 * 4 + 3 * 8


def test_calibration_moves_later_means_only() -> None:
    """TEEN by hand: half way to what the first classes make of it."""
    method = learned(calibrated(0.5, 16.0))
    assert method.base == (0, 1)
    p = F.normalize(MEANS, dim=1)
    weight = torch.softmax(16 * p[2] @ p[:2].T, 0)
    moved = torch.stack([p[0], p[1], 0.5 * p[2] + 0.5 * F.normalize(weight @ p[:2], dim=0)])
    x = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    assert method.head is not None
    torch.testing.assert_close(method.head(x), torch.softmax(F.normalize(x, dim=1) @ F.normalize(moved, dim=1).T, 1))


def test_a_class_without_rows_is_never_meant() -> None:
    method = Means()
    method.learn(ROWS[1], None, 4)
    assert method.head is not None
    assert method.head(torch.rand(3, 3)).gt(0).tolist() == [[False, False, True, False]] * 3
