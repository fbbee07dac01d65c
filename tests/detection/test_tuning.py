import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from memreplay.core.memory import ReplayMemory
from memreplay.core.training import fit
from memreplay.detection.adapter import DetectionAdapter
from memreplay.detection.base import BaseTraining
from memreplay.detection.data import DetectionSet, image_batches
from memreplay.detection.detector import views
from memreplay.detection.faster_rcnn import FasterRCNN
from memreplay.detection.memory import ROIMemory
from memreplay.detection.regions import extract, fill, unless_known
from memreplay.detection.shots import Shots
from memreplay.detection.terms import DetectorLoss
from memreplay.detection.torchvision_detector import TorchvisionDetector
from memreplay.detection.tuning import METHODS, FineTuning, Method

OLD = ["0", "1"]
NEW = ["0", "1", "2"]


@pytest.fixture
def start(detector: TorchvisionDetector) -> TorchvisionDetector:
    return detector


def memory_of(start: TorchvisionDetector, scenes: DetectionSet, tuning: FineTuning) -> ROIMemory | None:
    memory = tuning.new_memory(20, 10, fingerprint=start.fingerprint())
    return None if memory is None else fill(memory, extract(start, scenes.of(OLD)))


def weights(detector: TorchvisionDetector) -> dict[str, torch.Tensor]:
    return {name: values.detach().clone() for name, values in detector.named_parameters()}


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_changes_only_what_may_learn(
    method: str, cached: bool, start: TorchvisionDetector, scenes: DetectionSet
) -> None:
    tuning = FineTuning(method, steps=2, cached=cached, images=2, regions=16, replay=8, passes=1)  # type: ignore[arg-type]
    memory = memory_of(start, scenes, tuning)
    if method == "tfa":
        start.use_cosines()
    before = weights(start)
    progress = tuning.tune(start, scenes, memory, progress_bar=False)
    changed = {name for name, values in weights(start).items() if not torch.equal(values, before[name])}
    assert progress.step == 2
    assert changed
    allowed = ("box_predictor",) if method == "tfa" else ("box_predictor", "box_head")
    assert all(any(part in name for part in allowed) for name in changed)
    assert any("cls_score.weight" in name for name in changed)


def test_all_parts_learn_from_images(start: TorchvisionDetector, scenes: DetectionSet) -> None:
    before = weights(start)
    FineTuning("finetune", steps=1, cached=False, learns="all", images=4).tune(start, scenes, progress_bar=False)
    changed = {name.split(".")[1] for name, values in weights(start).items() if not torch.equal(values, before[name])}
    assert changed == {"backbone", "rpn", "roi_heads"}


@pytest.mark.parametrize("method", ["finetune", "replay"])
def test_weights_go_half_way_back_but_for_those_of_the_new_classes(
    method: Method, start: TorchvisionDetector, scenes: DetectionSet
) -> None:
    before, there, half = weights(start), copy.deepcopy(start), copy.deepcopy(start)
    tuning = FineTuning(method, steps=2, regions=16, replay=8, passes=1)
    few = Shots.draw(scenes, NEW[2:], 3).of(scenes, NEW)
    for detector, back in ((there, 0.0), (half, 0.5)):
        memory = memory_of(start, scenes, tuning)
        replace(tuning, back=back).tune(detector, few, memory, progress_bar=False)
    after = weights(there)
    for name, values in weights(half).items():
        expected = (before[name] + after[name]) / 2
        if "box_predictor" in name:
            places = slice(3, 4) if "cls_score" in name else slice(12, 16)
            assert not torch.equal(before[name][places], after[name][places])
            expected[places] = after[name][places]
        assert torch.allclose(values, expected, atol=1e-7), name
    assert not torch.equal(before["model.roi_heads.box_head.fc6.weight"], after["model.roi_heads.box_head.fc6.weight"])


def test_old_classes_are_found_as_before_when_their_scores_are_apart(
    start: TorchvisionDetector, scenes: DetectionSet, tmp_path: Path
) -> None:
    images = [scenes.image(0), scenes.image(1)[:, :32]]
    architecture = FasterRCNN("small", levels=(4, 8), channels=16, head=32, min_size=64, max_size=64, anchor=12)
    old = architecture.build(2)
    old.heads.score_thresh = 0.2
    before = old.detect(images)
    few = Shots.draw(scenes, NEW[2:], 3).of(scenes, NEW)
    tuning = FineTuning(steps=20, lr=0.1, regions=16, replay=8, passes=1, learns="predictor", back=1.0, apart=True)
    found, logits = {}, {}
    for lift in (0.0, 1.0):
        new = copy.deepcopy(old)
        new.grow(1, torch.Generator())
        memory = fill(
            ROIMemory.of_rows(20, 10, fingerprint=new.fingerprint(), logits=True), extract(old, scenes.of(OLD))
        )
        replace(tuning, lift=lift).tune(new, few, memory, progress_bar=False)
        assert new.rounds == (2,)
        found[lift] = new.detect(images)
        logits[lift] = new.judge(extract(old, scenes.of(OLD)))["logits"]
        for one, other in zip(found[lift], before, strict=True):
            kept = one.within(0, 2)
            assert torch.allclose(kept.scores, other.scores)
            assert torch.equal(kept.labels, other.labels)
            assert torch.allclose(kept.boxes, other.boxes)
            assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
    assert sum(len(one.scores) for one in before) > 5
    assert torch.allclose(logits[1.0] - logits[0.0], torch.tensor([0.0, 0, 0, 1]), atol=1e-6)

    DetectionAdapter(architecture, new, NEW).save(tmp_path)
    loaded = DetectionAdapter.load(tmp_path).detector
    assert loaded.rounds == (2,)
    loaded.heads.score_thresh = 0.2
    for one, other in zip(loaded.detect(images), found[1.0], strict=True):
        assert torch.equal(one.scores, other.scores)


def test_every_round_is_apart_from_the_next(start: TorchvisionDetector, scenes: DetectionSet) -> None:
    tuning = FineTuning("finetune", steps=1, regions=16, passes=1, apart=True)
    for added, expected in ((1, (3,)), (1, (3, 4)), (0, (3,))):
        names = [str(number) for number in range(start.classes + added)]
        if added:
            start.grow(added, torch.Generator())
        pictures = [
            replace(p, labels=torch.full_like(p.labels, 3 if not added else len(names) - 1)) for p in scenes.pictures
        ]
        tuning.tune(start, DetectionSet(names, pictures, scenes.files), progress_bar=False)
        assert start.rounds == expected


def test_terms_by_name(start: TorchvisionDetector, scenes: DetectionSet, tmp_path: Path) -> None:
    import json

    tuning = FineTuning("distill", steps=1, regions=16, replay=8, passes=1)
    tuning.tune(start, scenes, memory_of(start, scenes, tuning), out=tmp_path, log_every=1, progress_bar=False)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    terms = {"loss_cls", "loss_box", "loss_cls_replay", "loss_box_replay", "distillation"}
    assert terms < line.keys()
    assert line["loss"] == pytest.approx(sum(line[name] for name in terms), rel=1e-5)
    # nothing has changed yet, so the scores are what they were
    assert line["distillation"] == pytest.approx(0, abs=1e-5)


def test_without_memory_a_step_is_a_plain_step(start: TorchvisionDetector, scenes: DetectionSet) -> None:
    """Images through ``fit`` and a hand-written loop, bit for bit."""
    plain = copy.deepcopy(start)
    loader = image_batches(scenes, 2)
    torch.manual_seed(0)
    fit(
        start,
        torch.optim.SGD(start.parameters(), 0.01),
        loader,
        ReplayMemory(mix=DetectorLoss()),
        steps=3,
        views=views,
        progress_bar=False,
    )
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(plain.parameters(), 0.01)
    plain.train()
    for part in (loader.sampler, loader.dataset):
        part.set_epoch(0)  # type: ignore[attr-defined]
    batches = iter(loader)
    for _ in range(3):
        batch = next(batches)
        targets = [
            {"boxes": b, "labels": y + 1, "id": i}
            for b, y, i in zip(batch["boxes"], batch["label"], batch["id"], strict=True)
        ]
        sum(plain.model([image.float() / 255 for image in batch["image"]], targets).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    one, other = weights(start), weights(plain)
    assert all(torch.allclose(one[name], other[name], rtol=1e-6, atol=1e-7) for name in one)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(
    start: TorchvisionDetector, scenes: DetectionSet, tmp_path: Path
) -> None:
    tuning = FineTuning(steps=6, regions=16, replay=8, passes=1)
    memory = memory_of(start, scenes, tuning)
    whole = copy.deepcopy(start)
    tuning.tune(whole, scenes, copy.deepcopy(memory), progress_bar=False)

    class Stop(Exception):
        pass

    def stop(progress: object) -> None:
        if progress.step == 4:  # type: ignore[attr-defined]
            raise Stop

    part, again = copy.deepcopy(start), copy.deepcopy(start)
    options = {"out": tmp_path, "save_every": 3, "progress_bar": False}
    with pytest.raises(Stop):
        tuning.tune(part, scenes, copy.deepcopy(memory), on_step_end=stop, **options)
    progress = tuning.tune(again, scenes, copy.deepcopy(memory), resume=True, **options)
    assert progress.step == 6
    one, other = weights(whole), weights(again)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_mistakes(start: TorchvisionDetector, scenes: DetectionSet) -> None:
    with pytest.raises(ValueError, match="method is 'repaly'"):
        FineTuning("repaly")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cached is True and learns is 'all'"):
        FineTuning(learns="all")
    with pytest.raises(ValueError, match=r"back is 1\.5; expected a share from 0 to 1"):
        FineTuning(back=1.5)
    with pytest.raises(ValueError, match="lift is nan; expected a finite number"):
        FineTuning(lift=float("nan"))
    with pytest.raises(ValueError, match="which freezes all but the predictor"):
        FineTuning("tfa", learns="all", cached=False)
    with pytest.raises(ValueError, match="expected one with regions for the method 'distill'"):
        FineTuning().tune(start, scenes)
    tuning = FineTuning()
    memory = memory_of(start, scenes, tuning)
    assert memory is not None
    memory.fingerprint = "another"
    with pytest.raises(ValueError, match="the memory is of the backbone and pooler another"):
        tuning.tune(start, scenes, memory)
    statistics = memory_of(start, scenes, FineTuning("gaussian"))
    with pytest.raises(ValueError, match="memory holds statistics, no scores; expected 'gaussian' for it"):
        tuning.tune(start, scenes, statistics)
    four = DetectionSet([*scenes.classes, "9"], scenes.pictures, scenes.files)
    with pytest.raises(ValueError, match="data has 4 classes, the detector 3"):
        tuning.tune(start, four, memory)


def test_background_that_is_taken_for_an_old_class_is_left_out() -> None:
    logits = torch.tensor([[0.0, 5, 0], [5, 0, 0], [0, 0, 5], [0, 5, 0]])
    rows = {"logits": logits, "label": torch.tensor([-1, -1, -1, 0])}
    assert unless_known(rows, 1)["logits"].tolist() == logits[1:].tolist()
    assert unless_known(rows, 2)["logits"].tolist() == logits[[1, 3]].tolist()


def test_extraction_is_by_the_seed_and_leaves_the_global_generator(
    start: TorchvisionDetector, scenes: DetectionSet
) -> None:
    before = torch.get_rng_state()
    one, again, other = (extract(start, scenes, passes=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one["proposal"], again["proposal"])
    assert not torch.equal(one["proposal"], other["proposal"])
    assert one["feature"].dtype == torch.float16
    flipped = one["source"].diff().ne(0).sum() + 1
    assert flipped == 2 * len(scenes)


def test_base_training_learns_and_fills_a_memory_throughout(start: TorchvisionDetector, scenes: DetectionSet) -> None:
    memory = ROIMemory.of_rows(30, 15, logits=True)
    before = weights(start)
    training = BaseTraining(steps=3, images=2, warmup=1)
    training.train(start, scenes, memory, progress_bar=False)
    assert all(not torch.equal(values, before[n]) for n, values in weights(start).items() if n.endswith("fc6.weight"))
    assert memory.fingerprint == start.fingerprint()
    assert set(memory.summary()["classes"]) == {0, 1, 2}
    assert memory.objects.seen + memory.background.seen == 3 * 2 * 16
    with pytest.raises(ValueError, match="data has 2 classes; expected 3"):
        training.train(start, scenes.of(OLD))


def test_learning_rate_rises_and_falls() -> None:
    training = BaseTraining(steps=10, warmup=2)
    shares = [training._share(step) for step in range(11)]
    assert shares[:3] == [0.5, 1, 1]
    assert shares[10] == pytest.approx(0)
    assert all(a >= b for a, b in pairwise(shares[1:]))
