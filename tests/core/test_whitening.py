import pytest
import torch

from memreplay import GaussianStore
from memreplay.core.whitening import Whitening


def rows(n: int = 4000) -> dict[str, torch.Tensor]:
    """Three classes that differ by much in the first direction, within and between, and by little in the second."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(n) % 3
    spread = torch.tensor([10.0, 1.0, 3.0])
    centre = torch.tensor([[5.0, 4.0, 0.0], [0.0, -4.0, 1.0], [-5.0, 0.0, 2.0]])
    return {"feature": centre[label] + spread * torch.randn(n, 3, generator=generator), "label": label}


def memory_of(batch: dict[str, torch.Tensor]) -> GaussianStore:
    memory = GaussianStore(covariance="shared")
    memory.add(batch)
    return memory


def test_classes_vary_alike_in_every_direction() -> None:
    batch = rows()
    white = Whitening.of_memory(memory_of(batch), 1e-9)
    x = (batch["feature"].double() - white.centre) @ white.root
    gap = torch.cat([x[batch["label"] == label] - x[batch["label"] == label].mean(0) for label in range(3)])
    assert torch.allclose(gap.T @ gap / len(gap), torch.eye(3).double(), atol=0.01)
    found = white(batch["feature"])
    assert found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=1), torch.ones(len(found)))


def test_all_shrinkage_leaves_angles_to_the_centre() -> None:
    batch = rows()
    memory = memory_of(batch)
    centred = batch["feature"] - memory.means.mean(0).float()
    found = Whitening.of_memory(memory, 1.0)(batch["feature"])
    assert torch.allclose(found, torch.nn.functional.normalize(centred, dim=1), atol=1e-5)


@pytest.mark.parametrize("shrinkage", [0.0, 1.5])
def test_mistakes_are_named(shrinkage: float) -> None:
    with pytest.raises(ValueError, match=rf"shrinkage is {shrinkage}; expected a number above 0 and at most 1"):
        Whitening.of_memory(memory_of(rows(30)), shrinkage)
