import pytest
import torch

from memreplay.core.stores.scatter import empty_scatter, square_root


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_square_roots_of_regular_and_singular_matrices(rank):
    generator = torch.Generator().manual_seed(rank)
    rows = torch.randn(rank, 3, dtype=torch.float64, generator=generator)
    matrix = rows.T @ rows
    root = square_root(matrix)
    assert torch.allclose(root @ root.T, matrix, atol=1e-12)


def test_the_root_of_nothing_is_nothing():
    assert not square_root(torch.zeros(2, 2, dtype=torch.float64)).any()


@pytest.mark.parametrize(("kind", "numbers"), [("diag", 6), ("lowrank:2", 18), ("full", 36), ("shared", 36)])
def test_the_numbers_held_per_class_are_as_promised(kind, numbers):
    scatter = empty_scatter(kind, 6, torch.device("cpu"))
    scatter.grow(1)
    assert sum(values.numel() for values in scatter.tensors.values() if values.is_floating_point()) == numbers


def test_what_a_low_rank_drops_goes_to_the_diagonal():
    scatter = empty_scatter("lowrank:1", 3, torch.device("cpu"))
    scatter.grow(1)
    rows = torch.tensor([[3.0, 0.0, 0.0], [-3.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, -1.0, -1.0]]).double()
    batch = scatter.of(rows, torch.zeros(4, dtype=torch.int64), 1)
    scatter.absorb(torch.tensor([0]), batch, torch.zeros(1).double(), torch.zeros(1, 3).double())
    assert torch.allclose(scatter.matrix(0), torch.tensor([18.0, 2.0, 2.0]).double().diag())
