import torch
from torch import nn

from memreplay.core.batch import Batch
from memreplay.vision_cls import Classifier, ImageSet
from memreplay.vision_cls.episodic import Views


def images(n: int) -> ImageSet:
    pixels = torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.zeros(n, dtype=torch.int64), ("a",), "train")


def brighter(rows: Batch, generator: torch.Generator) -> Batch:
    return {**rows, "input": rows["input"] + 0.5}


def test_means_over_copies_by_hand() -> None:
    model = Classifier(nn.Flatten(), nn.Linear(4, 1))
    data = images(5)
    plain = data.images.flatten(1)
    torch.testing.assert_close(Views()(model, data), plain)
    # two copies of three are brighter by one half
    torch.testing.assert_close(Views(2, brighter)(model, data), plain + 1 / 3)


def test_evaluation_mode_and_repeatable_copies() -> None:
    model = Classifier(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)), nn.Linear(4, 1)).train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    first, again = (Views(2)(model, images(6)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, Views(2, seed=1)(model, images(6)))
    assert model.training
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
