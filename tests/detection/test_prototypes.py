import copy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from memreplay.detection.adapter import DetectionAdapter
from memreplay.detection.backbones import small
from memreplay.detection.data import DetectionSet, ImagesInMemory
from memreplay.detection.detections import Detections
from memreplay.detection.proposals import Proposals
from memreplay.detection.prototypes import PrototypeCalibration, Prototypes
from memreplay.detection.shots import Shots
from memreplay.detection.torchvision_detector import TorchvisionDetector
from memreplay.detection.tuning import FineTuning

from .conftest import TINY

NAMES = ["zero", "one", "two", "new"]


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> PrototypeCalibration:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    torch.manual_seed(0)
    save_file(small().state_dict(), path)
    return PrototypeCalibration("small", path, min_size=64, max_size=64)


@pytest.fixture
def few(scenes: DetectionSet) -> DetectionSet:
    """Boxes of the digit two, called new."""
    pictures = [replace(p, labels=torch.where(p.labels == 2, 3, p.labels)) for p in scenes.pictures]
    named = DetectionSet(NAMES, pictures, scenes.files)
    return Shots.draw(named, ["new"], 2).of(named, ["new"])


def test_scores_are_the_mean_of_the_detector_and_the_likeness(
    calibration: PrototypeCalibration, scenes: DetectionSet
) -> None:
    prototypes = Prototypes(replace(calibration, share=0.25))
    picture = replace(
        scenes.pictures[0],
        boxes=torch.tensor([[2.0, 3, 20, 22], [10, 12, 40, 40], [5, 5, 30, 30]]),
        labels=torch.tensor([1, 1, 1]),
        hard=torch.tensor([False, False, True]),
    )
    prototypes.learn(DetectionSet(["a", "b"], [picture], scenes.files))
    assert prototypes.counts.tolist() == [0, 2]
    image = scenes.image(0)
    seen = prototypes.look(image)
    assert seen.scale == (64 / 48, 64 / 48)
    looks = prototypes.features(seen, picture.boxes)
    mean = looks[:2].mean(0)
    found = Detections(picture.boxes, torch.tensor([0.9, 0.5, 0.4]), torch.tensor([0, 1, 7]))
    expected = 0.25 * 0.5 + 0.75 * float(F.cosine_similarity(looks[1], mean, dim=0))
    (after,) = prototypes.calibrate([found], [image])
    scores = dict(zip(after.labels.tolist(), after.scores.tolist(), strict=True))
    assert scores == pytest.approx({0: 0.9, 1: expected, 7: 0.4})
    assert after.scores.tolist() == sorted(after.scores.tolist(), reverse=True)
    assert torch.equal(after.boxes[after.labels == 1], picture.boxes[1:2])
    prototypes.sums.neg_()
    (after,) = prototypes.calibrate([found], [image])
    assert float(after.scores[after.labels == 1]) == 0.0
    prototypes.drop(1)
    (after,) = prototypes.calibrate([found], [image])
    assert torch.equal(after.scores, found.scores)


def test_what_is_seen_follows_the_box_on_images_of_any_size(
    calibration: PrototypeCalibration, scenes: DetectionSet
) -> None:
    prototypes = Prototypes(calibration)
    image, boxes = scenes.image(0).float() / 255, torch.tensor([[4.0, 6, 30, 28], [20, 16, 44, 46]])
    large = F.interpolate(image[None], (96, 96), mode="bilinear")[0]
    one, other = prototypes.look(image), prototypes.look(large)
    assert one.values.shape == other.values.shape == (64, 4, 4)
    assert torch.cosine_similarity(prototypes.features(one, boxes), prototypes.features(other, 2 * boxes)).min() > 0.98
    assert torch.equal(prototypes.look((255 * image).byte()).values, one.values)


def test_boxes_may_come_one_after_the_other(calibration: PrototypeCalibration, scenes: DetectionSet) -> None:
    once, twice = Prototypes(calibration), Prototypes(calibration)
    once.learn(scenes)
    for i in range(len(scenes)):
        twice.learn(DetectionSet(scenes.classes, scenes.pictures[i : i + 1], scenes.files))
    assert torch.equal(once.counts, twice.counts)
    assert once.counts.tolist() == list(scenes.counts().values())
    assert torch.allclose(once.sums, twice.sums, rtol=1e-5)


def test_nothing_in_it_learns(calibration: PrototypeCalibration) -> None:
    state = torch.random.get_rng_state()
    prototypes = Prototypes(calibration)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not list(prototypes.parameters())
    assert not prototypes.train().encoder.training


def test_a_tuned_detector_has_them_and_so_has_its_save(
    calibration: PrototypeCalibration,
    detector: TorchvisionDetector,
    few: DetectionSet,
    scenes: DetectionSet,
    tmp_path: Path,
) -> None:
    adapter = DetectionAdapter(TINY, detector, NAMES[:3])
    tuning = FineTuning("finetune", steps=1, regions=16, passes=1, calibration=calibration)
    plain = copy.deepcopy(adapter)
    plain.add_classes(few, replace(tuning, calibration=None), progress_bar=False)
    adapter.add_classes(few, tuning, progress_bar=False)
    images = [scenes.image(i) for i in range(len(scenes))]
    before, after = (one.detector.detect(images) for one in (plain, adapter))
    assert sum(int((one.labels == 3).sum()) for one in before) > 5
    for one, other in zip(before, after, strict=True):
        for label in range(4):
            mine, theirs = one.scores[one.labels == label], other.scores[other.labels == label]
            assert torch.equal(mine, theirs) == (label < 3 or not len(mine))
    adapter.save(tmp_path)
    loaded = DetectionAdapter.load(tmp_path)
    for one, other in zip(loaded.detector.detect(images), after, strict=True):
        assert torch.equal(one.scores, other.scores)
    found = Proposals.of(adapter.detector, scenes).found(adapter.detector)
    for one, other in zip(found, after, strict=True):  # half precision
        assert torch.allclose(one.scores, other.scores, atol=2e-3)
    with pytest.raises(ValueError, match="expected that of the detector"):
        adapter.add_classes(few, replace(tuning, calibration=replace(calibration, share=0.3)))
    loaded.forget("new")
    assert loaded.detector.prototypes is not None
    assert not loaded.detector.prototypes.sums.any()
    loaded.save(tmp_path)
    assert not DetectionAdapter.load(tmp_path).detector.prototypes.sums.any()  # type: ignore[union-attr]


def test_images_are_read_once_for_proposals(
    calibration: PrototypeCalibration, detector: TorchvisionDetector, few: DetectionSet
) -> None:
    detector.grow(1, torch.Generator())
    detector.prototypes = Prototypes(calibration)
    detector.prototypes.learn(few)
    proposals = Proposals.of(detector, few)
    found = proposals.found(detector)
    held = sum(part.feature.nbytes + part.boxes.nbytes for part in proposals.parts)
    assert proposals.nbytes == held + len(few) * 2 * 64 * 4 * 4
    images, proposals.data = proposals.data, DetectionSet(few.classes, few.pictures, ImagesInMemory({}))
    for one, other in zip(proposals.found(detector), found, strict=True):
        assert torch.equal(one.scores, other.scores)
    # unless they are looked at in another size
    proposals.data = images
    detector.prototypes = Prototypes(replace(calibration, max_size=96, min_size=96))
    detector.prototypes.learn(few)
    for i, one in enumerate(proposals.found(detector)):
        assert torch.allclose(one.scores, detector.detect([few.image(i)])[0].scores, atol=2e-3)


@pytest.mark.skipif(not find_spec("detectron2"), reason="detectron2 is not installed; it is on no package index")
def test_they_are_carried_to_detectron2(
    calibration: PrototypeCalibration, detector: TorchvisionDetector, scenes: DetectionSet
) -> None:
    detector.prototypes = Prototypes(calibration)
    detector.prototypes.learn(scenes)
    images = [scenes.image(0)]
    one, other = (each.detect(images)[0] for each in (detector, replace(TINY, backend="detectron2").carried(detector)))
    assert len(one.scores) > 5
    assert torch.allclose(one.scores, other.scores, atol=1e-4)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"share is 1\.5; expected a share from 0 to 1"):
        PrototypeCalibration(share=1.5)
    with pytest.raises(ValueError, match="'small', which has no published ones; expected a file"):
        Prototypes(PrototypeCalibration("small"))
    with pytest.raises(ValueError, match="backbone is 'resnet5'; expected a classifier of torchvision by name"):
        Prototypes(PrototypeCalibration("resnet5"))
    save_file({"0.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    for path in (tmp_path / "other.safetensors", str(tmp_path / "other.safetensors")):
        with pytest.raises(ValueError, match="which lacks 15 tensors"):
            Prototypes(PrototypeCalibration("small", path))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the layers of the backbone do not run one after the other"):
        Prototypes(PrototypeCalibration("vit_b_16"), random=True)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "convnext_tiny"])
def test_the_classifier_is_the_one_that_was_published(
    name: str, scenes: DetectionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    for values in model.state_dict().values():  # as if it had learned
        if values.is_floating_point():
            values.add_(0.01 * torch.rand_like(values))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    made = PrototypeCalibration(name, tmp_path / "weights.pth", min_size=64, max_size=64, mean=(0, 0, 0), std=(1, 1, 1))
    image = scenes.image(0)
    large = F.interpolate(image[None].float() / 255, (64, 64), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = model.eval().features(large)[0]
    assert torch.allclose(Prototypes(made).look(image).values, expected, atol=1e-4)
