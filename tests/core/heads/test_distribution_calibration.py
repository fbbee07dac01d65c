from dataclasses import dataclass, field

import pytest
import torch

from memreplay.core.heads import DistributionCalibration, LinearHead
from memreplay.core.stores import GaussianStore


@dataclass
class Seen:
    """Keeps the rows that it is given."""

    rows: dict[str, torch.Tensor] = field(default_factory=dict)

    def fit(self, rows: dict[str, torch.Tensor], classes: int) -> LinearHead:
        self.rows = rows
        return LinearHead(torch.zeros(classes, rows["feature"].shape[1]))


@pytest.fixture
def memory() -> GaussianStore:
    """Three base classes about (0, 0), (10, 0) and (0, 100), each of two rows that differ by 2 in one direction."""
    memory = GaussianStore(covariance="full")
    centres, spread = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 100.0]]), torch.tensor([1.0, 0.0])
    feature = torch.cat([centres - spread, centres + spread])
    memory.add({"feature": feature, "label": torch.arange(3).repeat(2)})
    return memory


def test_what_is_drawn_has_the_calibrated_statistics(memory: GaussianStore) -> None:
    how = Seen()
    calibration = DistributionCalibration(memory, k=2, alpha=0.5, draws=20_000, how=how)  # type: ignore[arg-type]
    shots = torch.tensor([[2.0, 3.0], [0.0, 80.0]])
    calibration.fit({"feature": shots, "label": torch.tensor([0, 1])}, 2)
    label, feature = how.rows["label"], how.rows["feature"]
    assert torch.equal(feature[:2], shots)
    assert label.bincount().tolist() == [20_001, 20_001]
    for number, mean in enumerate([(0 + 10 + 2) / 3, 0 + 0 / 3]):
        # the class at (0, 100) is nearest to the second shot, that at (0, 0) second
        second = [(0 + 0 + 3) / 3, (100 + 0 + 80) / 3][number]
        drawn = feature[2:][label[2:] == number]
        torch.testing.assert_close(drawn.mean(0), torch.tensor([mean, second]), atol=0.05, rtol=0)
        # every base class has covariance diag(2, 0); 0.5 is added to every entry
        torch.testing.assert_close(drawn.T.cov(), torch.tensor([[2.5, 0.5], [0.5, 0.5]]), atol=0.1, rtol=0)


def test_the_seed_decides(memory: GaussianStore) -> None:
    rows = {"feature": torch.tensor([[2.0, 3.0], [0.0, 80.0]]), "label": torch.tensor([0, 1])}
    heads = [DistributionCalibration(memory, draws=10, seed=seed).fit(rows, 2).weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
