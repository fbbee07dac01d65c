import copy

import pytest
import torch

from memreplay.detection.data import DetectionSet, ImagesInMemory
from memreplay.detection.proposals import Proposals
from memreplay.detection.torchvision_detector import TorchvisionDetector


def test_heads_that_learned_find_without_images_what_they_find_with_them(
    detector: TorchvisionDetector, scenes: DetectionSet
) -> None:
    detector.heads.score_thresh = 0.2
    proposals = Proposals.of(detector, scenes, batch_size=3)
    assert proposals.nbytes == sum(sum(part.counts) for part in proposals.parts) * (2 * 8 * 3 * 3 + 16)
    changed = copy.deepcopy(detector)
    changed.grow(1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        changed.heads.box_head.fc6.weight.mul_(1.5)
    expected = [found for i in range(len(scenes)) for found in changed.detect([scenes.image(i)])]
    scenes = DetectionSet(scenes.classes, scenes.pictures, ImagesInMemory({}))
    found = proposals.found(changed)
    assert sum(len(one.scores) for one in found) > 10
    for one, other in zip(found, expected, strict=True):  # half precision
        assert torch.equal(one.labels, other.labels)
        assert torch.allclose(one.scores, other.scores, atol=1e-3)
        assert torch.allclose(one.boxes, other.boxes, atol=0.05)


def test_the_best_of_every_image_are_kept(detector: TorchvisionDetector, scenes: DetectionSet) -> None:
    every, best = (Proposals.of(detector, scenes, most) for most in (None, 5))
    for whole, part in zip(every.parts, best.parts, strict=True):
        assert part.counts == tuple(min(5, count) for count in whole.counts)
        for one, other in zip(whole.boxes.split(whole.counts), part.boxes.split(part.counts), strict=True):
            assert torch.equal(one[:5], other)


@pytest.mark.parametrize("part", ["backbone", "proposals"])
def test_another_backbone_or_other_proposals_are_refused(
    part: str, detector: TorchvisionDetector, scenes: DetectionSet
) -> None:
    proposals = Proposals.of(detector, scenes.first(2))
    with torch.no_grad():
        next(detector.part(part).parameters()).add_(1e-3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the proposals are of a backbone, pooler and proposals"):
        proposals.found(detector)
