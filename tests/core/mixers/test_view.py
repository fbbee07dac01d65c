from __future__ import annotations

import pytest
import torch
from torch import nn

from memreplay.core.batch import jagged
from memreplay.core.mixers import View, joint_forward
from memreplay.core.stores.rows import Rows


def rows_of(columns: dict[str, torch.Tensor]) -> Rows:
    n = next(iter(columns.values())).size(0)
    return Rows(columns, slots=torch.arange(n), ids=torch.arange(n))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_rows(n: int, g: torch.Generator) -> dict[str, torch.Tensor]:
    return {"input": torch.randn(n, 5, generator=g, dtype=torch.float64), "label": torch.arange(n)}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.mark.parametrize("wrap", [dict, rows_of])
def test_joint_equals_separate_forwards(model, wrap):
    g = generator()
    batch, a, b = random_rows(4, g), random_rows(1, g), random_rows(7, g)
    new, old = joint_forward(model, batch, {"a": wrap(a), "b": wrap(b)})
    assert list(old) == ["a", "b"]
    for view, columns in ((new, batch), (old["a"], a), (old["b"], b)):
        torch.testing.assert_close(view.output("logits"), model(columns["input"]), rtol=1e-12, atol=1e-12)
        assert view.column("label") is columns["label"]


def test_joint_gradients_equal_those_of_separate_forwards(model):
    g = generator()
    batch, old_rows = random_rows(4, g), random_rows(6, g)
    new, old = joint_forward(model, batch, {"replay": old_rows})
    joint = torch.autograd.grad(
        new.output("logits").square().mean() + old["replay"].output("logits").exp().mean(), list(model.parameters())
    )
    separate = torch.autograd.grad(
        model(batch["input"]).square().mean() + model(old_rows["input"]).exp().mean(), list(model.parameters())
    )
    for found, expected in zip(joint, separate, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_it_is_one_forward(model):
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[0]))
    g = generator()
    joint_forward(model, random_rows(4, g), {"a": random_rows(2, g), "b": random_rows(3, g)})
    assert seen == [9]


@pytest.mark.parametrize("recalled", [None, {}, {"replay": {"input": torch.zeros(0, 5, dtype=torch.float64)}}])
def test_nothing_recalled_is_a_plain_forward_bit_for_bit(model, recalled):
    batch = random_rows(4, generator())
    new, old = joint_forward(model, batch, recalled)
    assert old == {}
    assert new.rows is batch
    assert torch.equal(new.output("logits"), model(batch["input"]))


def test_batch_norm_sees_the_joint_batch():
    norm = nn.BatchNorm1d(5, momentum=1.0).double()
    g = generator()
    batch, old_rows = random_rows(4, g), random_rows(6, g)
    joint_forward(norm, batch, {"replay": old_rows})
    expected = torch.cat([batch["input"], old_rows["input"]]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected)


def test_only_the_columns_that_forward_reads_are_joined(model):
    g = generator()
    batch, old_rows = random_rows(4, g), random_rows(2, g)
    batch["logits"], old_rows["logits"] = torch.zeros(4, 3), torch.zeros(2, 7)  # could not be joined
    new, _ = joint_forward(model, batch, {"replay": rows_of(old_rows)})
    assert new.output("logits").shape == (4, 3)
    with pytest.raises(ValueError, match="column 'logits' differs"):
        joint_forward(model, batch, {"replay": old_rows}, lambda m, b: {"logits": b["logits"]})


def test_forward_gets_a_mapping_of_the_shared_columns(model):
    g = generator()
    batch, old_rows = {**random_rows(4, g), "mine": torch.zeros(4)}, {**random_rows(2, g), "logits": torch.zeros(2, 3)}

    def forward(m: nn.Module, columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert sorted(columns) == ["input", "label"]
        assert len(columns) == 2
        assert {**columns}["label"].tolist() == [0, 1, 2, 3, 0, 1]
        return {"double": 2 * columns["input"], "label": columns["label"]}

    new, old = joint_forward(model, batch, {"replay": rows_of(old_rows)}, forward)
    assert torch.equal(new.output("double"), 2 * batch["input"])
    assert torch.equal(old["replay"].output("double"), 2 * old_rows["input"])
    assert old["replay"].column("logits") is old_rows["logits"]


def test_jagged_columns_are_joined():
    batch, old_rows = {"tokens": jagged([[1, 2], [3]])}, {"tokens": jagged([[4, 5, 6]])}

    def forward(model: None, columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            "length": columns["tokens"].offsets().diff(),
            "sum": torch.stack([r.sum() for r in columns["tokens"].unbind()]),
        }

    new, old = joint_forward(None, batch, {"replay": old_rows}, forward)
    assert new.output("length").tolist() == [2, 1]
    assert old["replay"].output("length").tolist() == [3]
    assert old["replay"].output("sum").tolist() == [15]


@pytest.mark.parametrize("recalled", [None, {"replay": {"input": torch.zeros(2, 5, dtype=torch.float64)}}])
def test_an_output_without_one_row_per_row_is_refused(recalled):
    batch = random_rows(4, generator())
    rows = 4 if recalled is None else 6
    with pytest.raises(ValueError, match=rf"output 'aux' has shape \(\); expected {rows} rows"):
        joint_forward(nn.Identity(), batch, recalled, lambda m, b: {"aux": b["input"].mean()})
    with pytest.raises(ValueError, match=rf"output 'pooled' has shape \(1, 5\); expected {rows} rows"):
        joint_forward(nn.Identity(), batch, recalled, lambda m, b: {"pooled": b["input"].mean(0, keepdim=True)})
    with pytest.raises(TypeError, match="output 'logits' is a tuple"):
        joint_forward(lambda x: (x, x), batch, recalled)
    with pytest.raises(TypeError, match="forward returned a Tensor"):
        joint_forward(nn.Identity(), batch, recalled, lambda m, b: b["input"])


def test_a_missing_column_is_named_with_the_part_that_lacks_it():
    batch = random_rows(4, generator())
    with pytest.raises(KeyError, match="column 'feature' is not in the draw 'a', which has"):
        joint_forward(
            None,
            {**batch, "feature": torch.zeros(4, 2)},
            {"a": batch},
            lambda m, b: {"feature": b["feature"]},
        )
    with pytest.raises(KeyError, match=r"column 'input' is missing; all parts have \['label'\]"):
        joint_forward(nn.Identity(), {"label": torch.zeros(2)}, {"a": {"label": torch.zeros(2), "x": torch.zeros(2)}})
    with pytest.raises(KeyError, match="column 'input' is missing"):
        joint_forward(nn.Identity(), {"label": torch.zeros(2)})


def test_columns_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"recalled\['a'\]\['label'\] has 3 rows"):
        joint_forward(
            nn.Identity(), {"input": torch.zeros(2, 1)}, {"a": {"input": torch.zeros(2, 1), "label": torch.zeros(3)}}
        )


def test_a_view_names_what_is_missing_and_what_there_is():
    view = View(rows_of({"label": torch.arange(2)}), {"logits": torch.zeros(2, 3)})
    with pytest.raises(KeyError, match=r"column 'target' is missing; the rows have \['label'\]"):
        view.column("target")
    with pytest.raises(KeyError, match=r"output 'feature' is missing; the model gave \['logits'\]"):
        view.output("feature")


def test_weights_are_those_of_the_rows():
    weights = torch.tensor([0.5, 1.0])
    columns = {"label": torch.arange(2)}
    assert View(Rows(columns, torch.arange(2), torch.arange(2), weights=weights), {}).weights is weights
    assert View(columns, {}).weights is None


@pytest.mark.parametrize("wrap", [dict, rows_of])
def test_recalled_rows_move_to_the_device_of_the_batch(wrap):
    batch = {"input": torch.zeros(2, 5, device="meta")}
    _, old = joint_forward(
        nn.Identity(), batch, {"replay": wrap({"input": torch.zeros(3, 5), "label": torch.zeros(3)})}
    )
    assert old["replay"].column("label").device.type == "meta"
    assert old["replay"].output("logits").shape == (3, 5)
