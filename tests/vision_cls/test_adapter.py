import json
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from memreplay import CalibratedPrototypes
from memreplay.core.heads import LinearHead, LogisticRegression
from memreplay.vision_cls import MLP, ImageAdapter, ImageEncoder, ImageSet, digits
from memreplay.vision_cls.adapter import Recipe, thumbnails


@pytest.fixture
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(MLP(1, 8, 10, hidden=(256,)), 1, 8)


def shots(*classes: int, n: int = 20, split: str = "train") -> ImageSet:
    data = digits(split)  # type: ignore[arg-type]
    return data.rows(torch.cat([(data.labels == label).nonzero().squeeze(1)[:n] for label in classes]))


def right(adapter: ImageAdapter, data: ImageSet) -> float:
    place = adapter.probabilities(adapter.encoder.embed(data.images)).argmax(1).tolist()
    return sum(adapter.classes[i] == name for i, name in zip(place, data.names, strict=True)) / len(data)


def test_new_classes_from_few_shots_and_the_old_ones_stay(encoder: ImageEncoder, tmp_path: Path) -> None:
    adapter = ImageAdapter(encoder, Recipe(LogisticRegression(100.0)))
    adapter.learn(shots(0, 1, 2, 3, n=10))
    test = digits("test")
    before = right(adapter, test.of([0, 1, 2, 3]))
    adapter.save(tmp_path)

    adapter = ImageAdapter.load(tmp_path, device="cpu")
    began = time.process_time()
    adapter.learn(shots(4, 5, n=5))
    assert time.process_time() - began < 5
    assert adapter.classes == ["0", "1", "2", "3", "4", "5"]
    assert before > 0.8
    assert right(adapter, test.of([0, 1, 2, 3])) > before - 0.1
    assert right(adapter, test.of([4, 5])) > 0.6


def test_predictions_of_files_come_with_their_memories(encoder: ImageEncoder, tmp_path: Path) -> None:
    data = shots(0, 1, 2)
    files = []
    for number, image in enumerate(data.images):
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(image[0].mul(255).round().byte().numpy()).save(files[-1])
    (tmp_path / "broken.png").write_bytes(b"no image")
    adapter = ImageAdapter(encoder, Recipe(LogisticRegression(100.0)))
    adapter.learn(ImageSet(data.images.mul(255).round().byte(), data.labels, data.classes, "train", tuple(files)))
    *found, broken = adapter.predict([*files, tmp_path / "broken.png"])
    assert [prediction.label for prediction in found] == data.names
    for prediction in found:
        assert prediction.memories[0].file == prediction.file
        assert prediction.memories[0].similarity == pytest.approx(1, abs=1e-3)
        assert prediction.memories[0].label == prediction.label
        assert len(prediction.memories) == 3
    assert (broken.label, broken.memories) == (None, ())
    assert "cannot identify image file" in str(broken.error)
    assert adapter.predict([]) == []
    assert adapter.predict([tmp_path / "broken.png"])[0].label is None


def test_a_trained_head_is_taken_as_it_is_and_held_on_to(encoder: ImageEncoder) -> None:
    data = shots(0, 1, 2, n=30)
    trained = LinearHead(torch.randn(3, 256, generator=torch.Generator().manual_seed(1)), torch.tensor([0.1, 0.2, 0.3]))
    adapter = ImageAdapter(encoder, Recipe(per_class=2))
    adapter.learn(data, trained)
    feature = encoder.embed(shots(0, 1, 2, 3, split="test").images)
    torch.testing.assert_close(adapter.probabilities(feature), trained(feature).softmax(1).detach())
    assert not adapter.complete
    adapter.learn(shots(3))
    assert adapter.solved is not None
    # the trained head is the prior: two images of a class move it a little, and do not replace it
    assert torch.cosine_similarity(adapter.solved.weight[:3], trained.weight).min() > 0.9


def test_forgetting_leaves_no_trace_in_the_files(encoder: ImageEncoder, tmp_path: Path) -> None:
    data = shots(0, 1, 2)
    secret = tuple(f"secret/{name}-{number}.png" for number, name in enumerate(data.names))
    named = ImageSet(data.images, data.labels, ("zero", "one", "two", *"3456789"), "train", secret)
    adapter = ImageAdapter(encoder)
    adapter.learn(named)
    adapter.save(tmp_path)
    features = encoder.embed(data.images[20:40])
    small = thumbnails(data.images[20:40], 32)
    traces = [b'"one"', b"secret/1-", features[0].numpy().tobytes()[:64], small[0].numpy().tobytes()[:512]]
    before = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert all(trace in before for trace in traces)
    assert adapter.forget("one") == 20
    adapter.save(tmp_path)
    after = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(trace in after for trace in traces)
    assert not any(values.numpy().tobytes()[:64] in after for values in features)
    assert ImageAdapter.load(tmp_path, device="cpu").classes == ["zero", "two"]


def test_the_save_carries_the_network(encoder: ImageEncoder, tmp_path: Path) -> None:
    adapter = ImageAdapter(encoder)
    adapter.learn(shots(0, 1))
    adapter.save(tmp_path)
    meta = json.loads((tmp_path / "manifest.json").read_text())["meta"]
    assert meta["encoder"]["network"] == "MLP"
    assert list(meta["classes"].values()) == ["0", "1"]
    loaded = ImageAdapter.load(tmp_path, device="cpu")
    x = digits("test").images
    assert torch.equal(loaded.probabilities(loaded.encoder.embed(x)), adapter.probabilities(encoder.embed(x)))


def test_the_memory_has_a_say_once_there_are_later_classes(encoder: ImageEncoder) -> None:
    adapter = ImageAdapter(encoder, Recipe(LogisticRegression(100.0)))
    adapter.learn(shots(0, 1, n=20))
    feature = encoder.embed(digits("test").images)
    assert adapter.head is not None
    torch.testing.assert_close(adapter.probabilities(feature), adapter.head(feature).softmax(1).detach())
    adapter.learn(shots(2, n=1))
    rows = adapter.memory.rows().columns
    calibrated = CalibratedPrototypes([0, 1], temperature=0.02)(rows, feature).probabilities
    expected = (adapter.head(feature).softmax(1).detach() + calibrated) / 2
    torch.testing.assert_close(adapter.probabilities(feature), expected)


def test_every_class_has_the_same_say_in_the_head(encoder: ImageEncoder) -> None:
    data = shots(0, 1, n=20).rows(torch.arange(22))  # twenty of one, two of the other
    twenty = shots(0, 1, n=20)
    repeated = ImageSet(
        torch.cat([twenty.images[:20], twenty.images[20:22].repeat(10, 1, 1, 1)]),
        twenty.labels,
        twenty.classes,
        "train",
    )
    feature = encoder.embed(digits("test").images)
    found = []
    # the mean weight of a row is 1, so the rows of the first count 11 / 20, and those of the second 11 / 2
    for rows, strength in ((data, 20.0), (repeated, 11.0)):
        adapter = ImageAdapter(encoder, Recipe(LogisticRegression(strength)))
        adapter.learn(rows)
        found.append(adapter.probabilities(feature))
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=0)


def test_thumbnails() -> None:
    ramp = torch.linspace(0, 1, 64).expand(2, 1, 64, 64)
    small = thumbnails(ramp, 4)
    assert (small.shape, small.dtype) == ((2, 1, 4, 4), torch.uint8)
    expected = ramp.view(2, 1, 4, 16, 4, 16).mean((3, 5)) * 255
    assert (small.float() - expected).abs()[..., 1:3].max() <= 1
    assert (thumbnails(ramp.mul(255).round().byte(), 4).int() - small.int()).abs().max() <= 1


def test_a_refused_batch_changes_nothing(encoder: ImageEncoder) -> None:
    adapter = ImageAdapter(encoder)
    adapter.learn(shots(0, 1))
    with pytest.raises(ValueError, match="data has no images"):
        adapter.learn(shots(0, n=0))
    with pytest.raises(ValueError, match="images have shape"):
        adapter.learn(ImageSet(torch.zeros(2, 1, 9, 9), torch.tensor([0, 1]), ("a", "b"), "train"))
    assert adapter.classes == ["0", "1"]
    with pytest.raises(ValueError, match="thumbnail is -1"):
        Recipe(thumbnail=-1)
