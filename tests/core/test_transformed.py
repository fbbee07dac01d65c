import torch

from memreplay.core.readout import NearestClassMean
from memreplay.core.transformed import Transformed


def test_rows_and_queries_are_changed_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    turn = torch.randn(5, 3, generator=generator)
    rows = {"x": torch.randn(8, 5, generator=generator), "label": torch.arange(8) % 4}
    queries = torch.randn(6, 5, generator=generator)
    said = Transformed(lambda vectors: vectors @ turn, NearestClassMean(feature="x"), "x")(rows, queries)
    by_hand = NearestClassMean()({"feature": rows["x"] @ turn, "label": rows["label"]}, queries @ turn)
    torch.testing.assert_close(said.probabilities, by_hand.probabilities)
    assert torch.equal(said.labels, by_hand.labels)
