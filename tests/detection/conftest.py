import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from memreplay.detection.data import DetectionSet
from memreplay.detection.faster_rcnn import FasterRCNN
from memreplay.detection.scenes import digit_scenes
from memreplay.detection.torchvision_detector import TorchvisionDetector

TINY = FasterRCNN(
    backbone="small",
    levels=(4, 8),
    channels=8,
    pool=3,
    head=16,
    regions=16,
    positive=0.5,
    proposals=20,
    min_size=48,
    max_size=48,
    anchor=12,
    ratios=(1.0,),
)


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps its settings in the process; every test starts without."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def scenes() -> DetectionSet:
    return digit_scenes(8, [0, 1, 2], size=48, seed=1)


@pytest.fixture(scope="session")
def _detector() -> TorchvisionDetector:
    return TINY.build(3, seed=0)


@pytest.fixture
def detector(_detector: TorchvisionDetector) -> TorchvisionDetector:
    """For three classes; random weights."""
    return copy.deepcopy(_detector)


def batch_of(data: DetectionSet, *index: int) -> dict[str, list[Tensor]]:
    pictures = [data.pictures[i] for i in index]
    return {
        "image": [data.image(i) for i in index],
        "boxes": [picture.boxes for picture in pictures],
        "label": [picture.labels for picture in pictures],
        "id": [torch.tensor(i) for i in index],
    }


def regions(n: int, classes: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Rows for a memory, a third of them background."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 20
    proposal = torch.cat([corner, corner + 5 + 10 * torch.rand(n, 2, generator=generator)], 1)
    return {
        "feature": torch.randn(n, 8, 3, 3, generator=generator),
        "label": torch.arange(n) % (classes + 1) - 1,
        "proposal": proposal,
        "target": proposal + 1,
        "source": torch.arange(n),
        "logits": torch.randn(n, classes + 1, generator=generator),
    }
