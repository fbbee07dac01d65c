import pytest
import torch

from memreplay.core.centring import Centring
from memreplay.core.readout import NearestClassMean


def test_simpleshot_by_hand() -> None:
    base = torch.tensor([[9.0, 10.0], [11.0, 10.0]])
    centring = Centring.of(base)
    assert centring.centre.tolist() == [10.0, 10.0]
    shots = centring(torch.tensor([[14.0, 13.0], [10.0, 12.0]]))
    torch.testing.assert_close(shots, torch.tensor([[0.8, 0.6], [0.0, 1.0]]))
    # as it is the query is nearer to the second shot; seen from the middle it is the first's
    query = torch.tensor([[10.8, 10.8]])
    rows = {"feature": shots, "label": torch.tensor([0, 1])}
    as_it_is = {"feature": torch.tensor([[14.0, 13.0], [10.0, 12.0]]), "label": torch.tensor([0, 1])}
    assert NearestClassMean("euclidean")(rows, centring(query)).labels.tolist() == [0]
    assert NearestClassMean("euclidean")(as_it_is, query).labels.tolist() == [1]


def test_no_base() -> None:
    with pytest.raises(ValueError, match="feature is empty"):
        Centring.of(torch.zeros(0, 2))
