import torch

from memreplay.core.heads import Fitted, InSpan, LinearHead, LogisticRegression


class Means:
    """The rows of the head are the sums of each class."""

    def fit(self, rows: dict[str, torch.Tensor], classes: int) -> LinearHead:
        feature, label = rows["feature"], rows["label"]
        return LinearHead(torch.zeros(classes, feature.shape[1]).index_add_(0, label, feature))


def test_labels_of_the_rows_come_back() -> None:
    rows = {"x": torch.eye(3), "kind": torch.tensor([9, 4, 9])}
    said = Fitted(Means(), "x", "kind")(rows, torch.tensor([[0.0, 5.0, 0.0], [0.0, 0.0, 5.0]]))
    assert said.classes.tolist() == [4, 9]
    assert said.labels.tolist() == [4, 9]
    torch.testing.assert_close(said.probabilities[0], torch.tensor([5.0, 0.0]).softmax(0))


def test_in_span_is_the_same_head() -> None:
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(9, 40, generator=generator)
    rows = {"feature": feature, "label": torch.arange(9) % 3}
    how = LogisticRegression(3.0)
    queries = torch.randn(20, 40, generator=generator)
    torch.testing.assert_close(InSpan(how).fit(rows, 3)(queries), how.fit(rows, 3)(queries), atol=1e-4, rtol=1e-3)
    many = {"feature": torch.randn(9, 4, generator=generator), "label": torch.arange(9) % 3}
    assert torch.equal(InSpan(how).fit(many, 3).weight, how.fit(many, 3).weight)
