import pytest
import torch
from torch import nn

from memreplay.core.loading import batches
from memreplay.vision_cls.augment import Augment, Augmented


def rows(n: int = 6) -> dict[str, torch.Tensor]:
    images = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return {"input": images, "label": torch.arange(n)}


def test_a_row_depends_on_seed_epoch_and_place_alone() -> None:
    one, other = (Augmented(rows(), Augment(), seed=3) for _ in range(2))
    together = one.__getitems__([0, 1, 2, 3])["input"]
    assert torch.equal(other.__getitems__([3, 1])["input"], together[[3, 1]])
    assert torch.equal(other[2]["input"], together[2])
    other.set_epoch(1)
    assert not torch.equal(other[2]["input"], together[2])
    assert not torch.equal(Augmented(rows(), Augment(), seed=4)[2]["input"], together[2])
    assert together.dtype == torch.uint8
    assert one.__getitems__([2, 0])["label"].tolist() == [2, 0]


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    Augmented(rows(), Augment())[0]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_transform_of_torchvision_will_do() -> None:
    from torchvision.transforms import v2

    mirrored = Augmented(rows(), v2.RandomHorizontalFlip(1.0))[1]["input"]
    assert torch.equal(mirrored, rows()["input"][1].flip(-1))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_gives_every_epoch_its_own_changes(workers: int) -> None:
    def epoch(number: int) -> torch.Tensor:
        table = Augmented(rows(), Augment())
        loader = batches(table, 4, shuffle=False, workers=workers)
        table.set_epoch(number)
        return torch.cat([batch["input"] for batch in loader])

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(0), epoch(1))


@pytest.mark.parametrize("channels", [1, 3])
def test_what_augment_does(channels: int) -> None:
    image = torch.linspace(0, 1, 64).expand(channels, 8, 8, 64)[..., 0, :].reshape(channels, 8, 64)[..., :8]
    assert torch.equal(Augment(crop=1.0, flip=0.0, colour=0.0)(image), image)
    assert torch.equal(Augment(crop=1.0, flip=1.0, colour=0.0)(image), image.flip(-1))
    torch.manual_seed(0)
    brighter = Augment(crop=1.0, flip=0.0, colour=0.5)(image)
    assert brighter.shape == image.shape
    assert not torch.equal(brighter, image)
    assert 0 <= brighter.min() <= brighter.max() <= 1


@pytest.mark.parametrize(("option", "value"), [("crop", 0), ("crop", 1.5), ("flip", -1), ("colour", 2)])
def test_augment_says_what_is_wrong(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} is {value}"):
        Augment(**{option: value})


def test_it_needs_no_module_of_ours() -> None:
    class Brighter(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image // 2 + 1

    assert torch.equal(Augmented(rows(), Brighter())[0]["input"], rows()["input"][0] // 2 + 1)
