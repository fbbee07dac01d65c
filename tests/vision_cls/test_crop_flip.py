import pytest
import torch

from memreplay.vision_cls.crop_flip import CropFlip


def test_every_image_is_one_of_its_windows() -> None:
    """By brute force: all shifts, mirrored and not."""
    images = torch.randint(1, 256, (40, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    label = torch.arange(40)
    changed = CropFlip(pad=2)({"input": images, "label": label}, torch.Generator().manual_seed(0))
    assert torch.equal(changed["label"], label)
    padded = torch.zeros(40, 3, 9, 8, dtype=torch.uint8)
    padded[:, :, 2:7, 2:6] = images
    seen = set()
    for number, image in enumerate(changed["input"]):
        for down in range(5):
            for right in range(5):
                window = padded[number, :, down : down + 5, right : right + 4]
                for flip, candidate in ((False, window), (True, window.flip(2))):
                    if torch.equal(image, candidate):
                        seen.add((number, down, right, flip))
    assert {place[0] for place in seen} == set(range(40))
    assert {place[1] for place in seen} == {place[2] for place in seen} == set(range(5))
    assert {place[3] for place in seen} == {False, True}


def test_a_generator_repeats() -> None:
    rows = {"input": torch.rand(8, 1, 6, 6)}
    first, again, other = (CropFlip()(rows, torch.Generator().manual_seed(seed))["input"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(CropFlip(0, 0.0)(rows, torch.Generator())["input"], rows["input"])


def test_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="pad is -1"):
        CropFlip(-1)
    with pytest.raises(ValueError, match="flip is 2"):
        CropFlip(flip=2)
