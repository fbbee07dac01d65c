import pytest
import torch

from memreplay.vision_cls import ImageSet, stratified_split


def test_batch_rows_and_classes() -> None:
    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)
    data = ImageSet(images, torch.tensor([0, 2, 1, 2]), ("a", "b", "c"), "train")
    batch = data.batch(torch.tensor([3, 0]))
    torch.testing.assert_close(batch["input"], images[[3, 0]].double().div(255).float())
    assert batch["label"].tolist() == [2, 0]
    assert data.of([2, 0]).labels.tolist() == [0, 2, 2]
    assert torch.equal(data.of([2]).images, images[[1, 3]])
    assert len(data.of([])) == 0


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 4, 4), torch.zeros(2, dtype=torch.int64), r"images has shape \(2, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4).double(), torch.zeros(2, dtype=torch.int64), "torch.float64"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(3, dtype=torch.int64), r"labels has shape \(3,\)"),
        (torch.zeros(2, 1, 4, 4), torch.tensor([0, 5]), "labels reach from 0 to 5; expected positions among 2"),
    ],
)
def test_image_set_is_checked(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageSet(images, labels, ("a", "b"), "train")


def test_stratified_split() -> None:
    labels = torch.tensor([0] * 10 + [1] * 3 + [2] * 2 + [3])
    parts = stratified_split(labels, test_fraction=0.2, generator=torch.Generator().manual_seed(1))
    assert sorted([*parts["train"].tolist(), *parts["test"].tolist()]) == list(range(16))
    assert labels[parts["test"]].tolist() == [0, 0, 1, 2]
    other = stratified_split(labels, test_fraction=0.2, generator=torch.Generator().manual_seed(2))
    assert not torch.equal(other["test"], parts["test"])
    with pytest.raises(ValueError, match=r"test_fraction is 1\.5"):
        stratified_split(labels, test_fraction=1.5, generator=torch.Generator())
