"""Bad input: each a clear error or documented behaviour, and the store as it was, generators included."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from memreplay.core.batch import jagged
from memreplay.core.retrievers import Nearest
from memreplay.core.selection import ClassBalanced, TopScore, Uniform
from memreplay.core.stores import BFloat16, Growable, Half, Plain, Quantized, Ragged, Rows, Store
from memreplay.core.stores.keeping import Fifo, GradientDiversity, Herding, KCenter, Reservoir, WeightedReservoir

KINDS = {"half": Half(), "levels": Quantized(), "logits": Growable(), "token": Ragged()}

POLICIES = [
    Reservoir(),
    TopScore("score"),
    WeightedReservoir("score"),
    Herding(),
    ClassBalanced(Reservoir()),
    ClassBalanced(Herding()),
]
any_policy = pytest.mark.parametrize("keep", POLICIES, ids=repr)


def good(n: int = 6) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(n)
    return {
        "feature": torch.randn(n, 3, generator=generator),
        "label": torch.randint(4, (n,), generator=generator),
        "score": torch.rand(n, generator=generator),
        "half": torch.randn(n, generator=generator),
        "levels": torch.randn(n, 2, generator=generator),
        "logits": torch.randn(n, 2, generator=generator),
        "token": jagged([[i] * (i % 3) for i in range(n)]),
    }


def filled(keep: Any = Reservoir(), n: int = 25) -> Store:  # noqa: B008 (immutable)
    store = Store(10, keep=keep, columns=KINDS, seed=1)
    store.add(good(n))
    store.draw(3)
    return store


def hole(name: str, value: float, row: int = 3) -> dict[str, Tensor]:
    values = good()[name].clone()
    values[row] = value
    return {name: values}


NAN, INF = float("nan"), float("inf")

BAD_BATCHES: dict[str, tuple[Mapping[str, Any], type[Exception], str]] = {
    "another shape": ({"feature": torch.zeros(6, 4)}, ValueError, r"'feature'.*\(4,\).*\(3,\)"),
    "more dimensions": ({"feature": torch.zeros(6, 3, 1)}, ValueError, r"'feature'.*\(3, 1\).*\(3,\)"),
    "fewer dimensions": ({"feature": torch.zeros(6)}, ValueError, r"'feature'.*\(\).*\(3,\)"),
    "another dtype": ({"feature": torch.zeros(6, 3).double()}, ValueError, "'feature'.*float64.*float32"),
    "floats for integers": ({"label": torch.zeros(6)}, ValueError, "'label'.*float32.*int64"),
    "integers for floats": ({"half": torch.zeros(6, dtype=torch.int64)}, ValueError, "'half'.*int64.*float32"),
    "a scalar": ({"score": torch.tensor(1.0)}, ValueError, "'score'.*scalar"),
    "a scalar label": ({"label": torch.tensor(1)}, ValueError, "'label'.*scalar"),
    "a list": ({"label": [1, 2, 3, 4, 5, 6]}, TypeError, "'label'.*list.*Tensor"),
    "an array": ({"score": torch.rand(6).numpy()}, TypeError, "'score'.*ndarray.*Tensor"),
    "nothing": ({"score": None}, TypeError, "'score'.*NoneType"),
    "too few rows": ({"score": torch.rand(5)}, ValueError, "'score'.* 5 rows.* 6"),
    "too few texts": ({"token": jagged([[1]])}, ValueError, "'token'.* 1 rows.* 6"),
    "a column more": ({"extra": torch.zeros(6)}, ValueError, r"'extra'.*expected \["),
    "a column that has no name": ({"": torch.zeros(6)}, ValueError, "name ''"),
    "a name that is no text": ({7: torch.zeros(6)}, ValueError, "name 7"),
    "the name id": ({"id": torch.arange(6)}, ValueError, "'id'.*id, key, rank"),
    "the name key": ({"key": torch.arange(6)}, ValueError, "'key'.*id, key, rank"),
    "the name rank": ({"rank": torch.arange(6)}, ValueError, "'rank'.*id, key, rank"),
    "rows of differing length": ({"feature": jagged([torch.zeros(2)] * 6)}, ValueError, "'feature'.*jagged"),
    "texts of other values": ({"token": jagged([torch.zeros(1)] * 6)}, ValueError, "'token'.*float32.*int64"),
    "rows without length": ({"token": torch.arange(6)}, ValueError, r"'token'.*\(6,\)"),
    "no list of texts": ({"token": "abcdef"}, TypeError, "'token'.*str"),
    "logits without width": ({"logits": torch.zeros(6)}, ValueError, "'logits'"),
}

BAD_NUMBERS: dict[str, tuple[Mapping[str, Any], type[Exception], str]] = {
    "NaN": (hole("feature", NAN), ValueError, "'feature'.*NaN"),
    "infinity": (hole("feature", -INF), ValueError, "'feature'.*infinite"),
    "NaN in half": (hole("half", NAN), ValueError, "'half'.*NaN"),
    "too large for half": (hole("half", 1e5), ValueError, r"'half'.*too large for Half\(\)"),
    "NaN in levels": (hole("levels", NAN), ValueError, "'levels'.*NaN"),
    "infinity in levels": (hole("levels", INF), ValueError, "'levels'.*infinite"),
    "NaN in logits": (hole("logits", NAN), ValueError, "'logits'.*NaN"),
}


@pytest.mark.parametrize("what", BAD_BATCHES)
@any_policy
def test_a_batch_that_does_not_fit(keep: Any, what: str, unchanged: Callable) -> None:
    change, error, message = BAD_BATCHES[what]
    store = filled(keep)
    with unchanged(store):
        with pytest.raises(error, match=message):
            store.add({**good(), **change})
        with pytest.raises(error, match=message):
            store.consolidate(Herding(), 5, candidates={**good(), **change})


@pytest.mark.parametrize("what", [*BAD_NUMBERS])
@any_policy
def test_numbers_that_do_not_fit(keep: Any, what: str, unchanged: Callable) -> None:
    change, error, message = BAD_NUMBERS[what]
    store = Store(100, keep=keep, columns=KINDS, seed=1)  # with room, so that every row may be kept
    store.add(good(25))
    with unchanged(store):
        with pytest.raises(error, match=message):
            store.add({**good(), **change})
        with pytest.raises(error, match=message):
            store.consolidate(Herding(), 5, candidates={**good(), **change})
        with pytest.raises(error, match=message):
            store.update(store.rows().ids[:6], **change)


@pytest.mark.parametrize(
    "what", [*BAD_NUMBERS, "a list", "a scalar", "too few rows", "the name id", "no list of texts"]
)
@any_policy
def test_a_first_batch_that_is_refused_fixes_nothing(keep: Any, what: str, unchanged: Callable) -> None:
    change, error, message = {**BAD_BATCHES, **BAD_NUMBERS}[what]
    for store in (
        Store(10, keep=keep, columns=KINDS),
        Store(budget="1MB", keep=keep, columns={n: k for n, k in KINDS.items() if n != "token"}),
    ):
        if "token" in change and store.capacity == 0:
            continue
        with unchanged(store):
            for call in (store.add, lambda batch: store.consolidate(Herding(), 5, candidates=batch)):  # noqa: B023
                first = good() if store.capacity else {name: v for name, v in good().items() if name != "token"}
                with pytest.raises(error, match=message):
                    call({**first, **change})
        store.add({"other": torch.zeros(6), **first})
        assert len(store) > 0


@pytest.mark.parametrize("name", ["feature", "label", "score", "half", "levels", "logits", "token"])
@any_policy
def test_a_missing_column(keep: Any, name: str, unchanged: Callable) -> None:
    store = filled(keep)
    with unchanged(store), pytest.raises(ValueError, match=r"expected \["):
        store.add({key: values for key, values in good().items() if key != name})


@any_policy
def test_a_batch_without_columns(keep: Any, unchanged: Callable) -> None:
    store = filled(keep)
    with unchanged(store), pytest.raises(ValueError, match="no columns"):
        store.add({})


@any_policy
def test_an_empty_batch_changes_nothing(keep: Any, unchanged: Callable) -> None:
    empty = {name: values[:0] for name, values in good().items() if name != "token"}
    for store in (filled(keep), Store(10, keep=keep, columns=KINDS)):
        with unchanged(store):
            slots = store.add({**empty, "token": torch.zeros(0, 2, dtype=torch.int64)})
            assert (slots.dtype, slots.shape) == (torch.int64, (0,))
    store.add(good())


def test_a_declared_column_must_come(unchanged: Callable) -> None:
    store = Store(10, columns={"logit": Half()})
    with unchanged(store), pytest.raises(ValueError, match=r"\['logit'\] are declared.*'feature'"):
        store.add({"feature": torch.zeros(2, 3)})


def test_rows_that_are_refused_anyway_are_not_looked_at() -> None:
    """The documented exception: only rows that may be kept must be finite."""
    store = Store(2, keep=Reservoir())
    store.add({"x": torch.zeros(100_000)})
    refused = store.add({"x": torch.full((1,), NAN)})
    assert refused.tolist() == [-1]
    assert store.rows()["x"].isfinite().all()


@pytest.mark.parametrize(
    ("keep", "columns", "message"),
    [
        (TopScore("loss"), {"x": torch.zeros(3)}, "'loss' is missing.*'x'"),
        (TopScore("x"), {"x": torch.zeros(3, 2)}, r"'x'.*\(3, 2\).*one number per row"),
        (TopScore("x"), {"x": torch.tensor([0.0, NAN, 1.0])}, "NaN"),
        (WeightedReservoir("loss"), {"x": torch.zeros(3)}, "'loss' is missing"),
        (WeightedReservoir("x"), {"x": torch.tensor([1.0, -2.0, 1.0])}, r"'x' is -2.0 in row 1"),
        (WeightedReservoir("x"), {"x": torch.tensor([1.0, 1.0, INF])}, r"'x' (is inf in row 2|holds numbers)"),
        (ClassBalanced(Fifo()), {"x": torch.zeros(3)}, r"ClassBalanced.*only the columns \['x'\]"),
        (ClassBalanced(Fifo()), {"label": torch.zeros(3)}, "'label'.*float32.*integers"),
        (ClassBalanced(Fifo()), {"label": torch.zeros(3, dtype=torch.complex64)}, "'label'.*complex64.*integers"),
        (ClassBalanced(Fifo()), {"label": torch.zeros(3, 2, dtype=torch.int64)}, r"'label'.*\(3, 2\).*one number"),
        (ClassBalanced(Fifo(), column="task"), {"label": torch.zeros(3, dtype=torch.int64)}, "task.*only"),
        (Herding(), {"x": torch.zeros(9, 2)}, "'feature'"),
    ],
)
def test_what_a_policy_needs(keep: Any, columns: dict[str, Tensor], message: str, unchanged: Callable) -> None:
    store = Store(4, keep=keep)
    with unchanged(store), pytest.raises((ValueError, KeyError), match=message):
        store.add(columns)
    with unchanged(store), pytest.raises((ValueError, KeyError), match=message):
        store.consolidate(keep, 2, candidates=columns)


def test_a_policy_that_fails_changes_nothing(unchanged: Callable) -> None:
    def gradients(rows: Any) -> Tensor:
        raise RuntimeError("out of memory")

    class Broken:
        def key(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
            values = torch.randn(len(batch["id"]), generator=generator).double()
            return values.log() if len(values) > 5 else values

    for keep, error in ((GradientDiversity(gradients), RuntimeError), (Broken(), ValueError)):
        for first in (False, True):
            store = Store(5, keep=keep)
            if not first:
                store.add({"feature": torch.zeros(3, 2)})
            with unchanged(store), pytest.raises(error):
                store.add({"feature": torch.zeros(50, 2)})


# -- making a store -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "capacity is None and budget is None"),
        ({"capacity": 5, "budget": 100}, ValueError, "capacity is 5 and budget is 100"),
        ({"capacity": 0}, ValueError, "capacity is 0.*at least 1"),
        ({"capacity": -3}, ValueError, "capacity is -3.*at least 1"),
        ({"capacity": 2.5}, ValueError, "capacity is 2.5.*whole number"),
        ({"capacity": True}, ValueError, "capacity is True.*whole number"),
        ({"capacity": "10"}, ValueError, "capacity is '10'.*whole number"),
        ({"budget": 0}, ValueError, "budget is 0"),
        ({"budget": -5}, ValueError, "budget is -5"),
        ({"budget": "lots"}, ValueError, "budget is 'lots'.*50MB"),
        ({"budget": "5 parsecs"}, ValueError, "budget is '5 parsecs'"),
        ({"budget": "0MB"}, ValueError, "budget is '0MB'"),
        ({"budget": "-1GB"}, ValueError, "budget is '-1GB'"),
        ({"budget": "5i"}, ValueError, "budget is '5i'"),
        ({"budget": NAN}, ValueError, "budget is nan"),
        ({"capacity": 5, "keep": "reservoir"}, TypeError, "keep is 'reservoir'.*Reservoir"),
        ({"capacity": 5, "keep": Reservoir}, TypeError, "keep is <class.*Reservoir"),
        ({"capacity": 5, "keep": Uniform}, TypeError, "keep is <class"),
        ({"capacity": 5, "columns": {"x": "half"}}, TypeError, r"columns\['x'\] is 'half'.*Half"),
        ({"capacity": 5, "columns": {"x": Half}}, TypeError, r"columns\['x'\] is <class.*Half"),
        ({"capacity": 5, "columns": {"id": Half()}}, ValueError, "'id' cannot be used"),
        ({"capacity": 5, "columns": {"": Half()}}, ValueError, "'' cannot be used"),
        ({"capacity": 5, "path": "x", "device": "meta"}, ValueError, "path is 'x' with device meta"),
        ({"capacity": 5, "seed": "x"}, ValueError, "seed is 'x'"),
        ({"capacity": 5, "seed": 1.5}, ValueError, "seed is 1.5"),
    ],
)
def test_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Store(**options)


def test_a_budget_below_one_row(unchanged: Callable) -> None:
    store = Store(budget=30)
    with unchanged(store), pytest.raises(ValueError, match="budget is 30 bytes but one row needs 36"):
        store.add({"x": torch.zeros(5, 3)})
    store.add({"x": torch.zeros(5)})
    assert store.capacity == 1


def test_a_budget_for_rows_of_differing_length(unchanged: Callable) -> None:
    store = Store(budget=1000, columns={"token": Ragged()})
    with unchanged(store), pytest.raises(ValueError, match=r"'token'.*differing length.*capacity instead of budget"):
        store.add({"token": [[1], [2]]})


def test_a_column_that_widens_beyond_the_budget(unchanged: Callable) -> None:
    store = Store(budget=200, columns={"logits": Growable()})
    store.add({"logits": torch.zeros(3, 2), "label": torch.zeros(3, dtype=torch.int64)})
    wide = {"logits": torch.zeros(3, 60), "label": torch.zeros(3, dtype=torch.int64)}
    with unchanged(store):
        for change in (
            lambda: store.add(wide),
            lambda: store.update([0, 1, 2], **wide),
            lambda: store.consolidate(KCenter("logits"), 2, wide),
        ):
            with pytest.raises(ValueError, match="budget is 200 bytes but one row needs 272"):
                change()
    with unchanged(store), pytest.raises(ValueError, match="budget is 200 bytes"):
        store.refresh(lambda x: torch.zeros(len(x), 60), read="logits", write="logits")


@pytest.mark.parametrize("kind", [Half(), BFloat16(), Quantized(), Growable()], ids=repr)
def test_kinds_for_numbers(kind: Any, unchanged: Callable) -> None:
    store = Store(5, columns={"x": kind})
    with unchanged(store), pytest.raises(ValueError, match=rf"'x' is torch.int64; {re.escape(repr(kind))} expects"):
        store.add({"x": torch.zeros(2, 3, dtype=torch.int64)})


@pytest.mark.parametrize(("kind", "name"), [(Quantized(), "x.scale"), (Ragged(), "x.offsets")])
def test_names_of_what_a_column_keeps_beside_its_rows(kind: Any, name: str, unchanged: Callable) -> None:
    store = Store(5, columns={"x": kind})
    with unchanged(store), pytest.raises(ValueError, match=rf"\['{name}'\] are taken"):
        store.add({"x": torch.ones(2, 3), name: torch.ones(2)})


# -- asking for rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.draw(-1), ValueError, "n is -1"),
        (lambda s: s.draw(2, "uniform"), TypeError, "'uniform' is no selector"),
        (lambda s: s.draw(2, TopScore("loss")), ValueError, "'loss' is missing.*'score'"),
        (lambda s: s.draw(2, TopScore("feature")), ValueError, "'feature'.*one number per row"),
        (lambda s: s.draw(2, ClassBalanced(TopScore("loss"))), ValueError, "'loss' is missing"),
        (lambda s: s.draw(2, ClassBalanced(Uniform(), column="task")), ValueError, "'task' is missing"),
        (lambda s: s.draw(2, ClassBalanced(Uniform(), column="score")), ValueError, "'score'.*float32.*integers"),
        (lambda s: s.draw(2, Nearest("feature")), ValueError, "query is None"),
        (
            lambda s: s.draw(2, Nearest("feature"), query={"other": torch.ones(1, 3)}),
            ValueError,
            "query.*'feature'.*'other'",
        ),
        (lambda s: s.draw(2, Nearest("feature"), query={"feature": torch.ones(1, 4)}), ValueError, r"\(1, 4\).*3"),
        (
            lambda s: s.draw(2, Nearest("token"), query={"token": torch.ones(1, 4)}),
            ValueError,
            "'token'.*one length",
        ),
        (lambda s: s.search({"feature": torch.ones(1, 3)}, 0), ValueError, "k is 0"),
        (lambda s: s.search({"feature": torch.ones(1, 3)}, -1), ValueError, "k is -1"),
        (lambda s: s.search({"feature": torch.ones(1, 4)}, 1), ValueError, r"\(1, 4\).*3"),
        (lambda s: s.search({"nope": torch.ones(1, 3)}, 1), ValueError, "'nope'"),
        (lambda s: s.search({}, 1), ValueError, "query has columns"),
        (
            lambda s: s.search({"feature": torch.ones(1, 3), "half": torch.ones(1)}, 1),
            ValueError,
            "query has columns.*expected one",
        ),
        (lambda s: s.rows([999]), KeyError, "1 of the 1 rows"),
        (lambda s: s.rows([0.5]), TypeError, "float64.*whole numbers"),
        (lambda s: s.rows(torch.ones(10, dtype=torch.bool)), TypeError, "bool.*whole numbers"),
    ],
)
@any_policy
def test_asking_for_what_is_not_there(
    keep: Any, call: Callable, error: type[Exception], message: str, unchanged: Callable
) -> None:
    store = filled(keep)
    with unchanged(store), pytest.raises(error, match=message):
        call(store)


def test_more_than_there_is() -> None:
    """Documented: all of them."""
    store = filled()
    assert len(store.draw(1000)) == 10
    assert len(store.draw(1000, ClassBalanced(Uniform()))) == 10
    assert store.search({"feature": torch.ones(2, 3)}, 1000)[1].shape == (2, 10)


# -- changing rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"nope": torch.zeros(3)}, ValueError, "no column 'nope'.*'feature'"),
        ({"id": torch.zeros(3)}, ValueError, "no column 'id'"),
        ({"feature": torch.zeros(3, 4)}, ValueError, r"'feature'.*\(4,\).*\(3,\)"),
        ({"feature": torch.zeros(2, 3)}, ValueError, "'feature' came with 2 rows.*expected 3 rows"),
        ({"score": torch.tensor(1.0)}, ValueError, "'score'.*scalar"),
        ({"score": 1.0}, TypeError, "'score'.*float"),
        ({"score": torch.zeros(3, dtype=torch.float64)}, ValueError, "'score'.*float64.*float32"),
        ({"label": torch.zeros(3)}, ValueError, "'label'.*float32.*int64"),
        ({"half": torch.tensor([1.0, 1e6, 1.0])}, ValueError, r"too large for Half\(\)"),
        ({"logits": torch.zeros(3, 9), "score": torch.zeros(2)}, ValueError, "'score' came with 2 rows"),
        ({"logits": torch.zeros(3, 9), "half": torch.full((3,), NAN)}, ValueError, "'half'.*NaN"),
        ({"score": torch.zeros(3), "nope": torch.zeros(3)}, ValueError, "no column 'nope'"),
        ({"token": [[1], [2]]}, ValueError, "'token' came with 2 rows"),
        ({"token": [[1.5], [2], [3]]}, ValueError, "integers"),
    ],
)
@any_policy
def test_update(keep: Any, columns: dict[str, Any], error: type[Exception], message: str, unchanged: Callable) -> None:
    store = filled(keep)
    rows = store.draw(3)
    with unchanged(store):
        for address in (rows, rows.ids, rows.ids.tolist()):
            with pytest.raises(error, match=message):
                store.update(address, **columns)


@pytest.mark.parametrize("address", [torch.ones(10, dtype=torch.bool), [0.5], ["1"], torch.zeros(2)], ids=str)
def test_addresses_that_are_no_ids(address: Any, unchanged: Callable) -> None:
    store = filled()
    with unchanged(store):
        with pytest.raises(TypeError, match="expected ids, which are whole numbers"):
            store.remove(address)
        with pytest.raises(TypeError, match="expected ids, which are whole numbers"):
            store.update(address, score=torch.zeros(len(address)))


@any_policy
def test_rows_that_are_gone_are_counted(keep: Any, unchanged: Callable) -> None:
    store = filled(keep)
    gone = [i for i in range(25) if i not in store.rows().ids.tolist()]
    before = store.state_dict()["tensors"]
    assert store.update(gone, score=torch.zeros(15)) == 0
    assert store.remove(gone) == 0
    assert store.skipped == 30
    after = store.state_dict()["tensors"]
    assert all(torch.equal(before[name].nan_to_num(7), after[name].nan_to_num(7)) for name in before)
    made_up = Rows({}, slots=torch.tensor([-1, -1]), ids=torch.tensor([-1, -1]))
    assert store.remove(made_up) == 0


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ({}, ValueError, "without a column"),
        ({"nope": 3}, ValueError, "no column 'nope'.*'label'"),
        ({"feature": 3}, ValueError, "'feature'.*one number per row"),
        ({"token": 3}, ValueError, "'token'.*one number per row"),
        ({"label": "3"}, TypeError, "label is '3'.*whole number"),
        ({"label": "12"}, TypeError, "label is '12'.*whole number"),
        ({"label": 1.5}, TypeError, "label is 1.5.*whole number"),
        ({"label": [1, 2.5]}, TypeError, r"label is \[1, 2.5\].*whole number"),
        ({"label": None}, TypeError, "label is None.*whole number"),
        ({"label": 1, "nope": 3}, ValueError, "no column 'nope'"),
    ],
)
@any_policy
def test_forget(keep: Any, where: dict[str, Any], error: type[Exception], message: str, unchanged: Callable) -> None:
    store = filled(keep)
    with unchanged(store), pytest.raises(error, match=message):
        store.forget(**where)


@any_policy
def test_forgetting_an_unknown_class_is_written_down(keep: Any) -> None:
    """Documented: no rows go, and the audit says so."""
    store = filled(keep)
    before = store.rows().ids
    assert store.forget(label=99) == 0
    assert torch.equal(store.rows().ids, before)
    assert store.audit == [{"where": {"label": [99]}, "rows": 0, "seen": 25}]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "capacity is 0"),
        ((-1,), ValueError, "capacity is -1"),
        ((2.5,), ValueError, "capacity is 2.5"),
        ((True,), ValueError, "capacity is True"),
        ((5, "fifo"), TypeError, "keep is 'fifo'"),
        ((5, TopScore("loss")), ValueError, "'loss' is missing"),
        ((20, TopScore("feature")), ValueError, "'feature'.*one number per row"),
        ((5, ClassBalanced(Fifo(), column="task")), ValueError, "'task' is missing"),
        ((5, ClassBalanced(Fifo(), column="score")), ValueError, "'score'.*float32.*integers"),
        ((5, Herding("nope")), ValueError, "'nope'"),
        ((5, WeightedReservoir("half")), ValueError, "'half' is -"),
    ],
)
@any_policy
def test_resize(
    keep: Any, arguments: tuple[Any, ...], error: type[Exception], message: str, unchanged: Callable
) -> None:
    store = filled(keep)
    with unchanged(store), pytest.raises(error, match=message):
        store.resize(*arguments)
    assert store.keep == keep
    store.add(good())


@pytest.mark.parametrize(
    ("keep", "k", "message"),
    [
        (Herding(), 0, "k is 0"),
        (Herding(), -1, "k is -1"),
        (Herding(), 11, "k is 11; expected 1 to 10"),
        (Herding("nope"), 5, "'nope'"),
        (ClassBalanced(Herding("nope")), 7, "'nope'"),
        (ClassBalanced(TopScore("loss")), 7, "'loss' is missing"),
        (ClassBalanced(Herding(), column="score"), 7, "'score'.*integers"),
    ],
)
@pytest.mark.parametrize("held", POLICIES, ids=repr)
def test_consolidate(held: Any, keep: Any, k: int, message: str, unchanged: Callable) -> None:
    store = filled(held)
    with unchanged(store):
        for candidates in (None, good()):
            with pytest.raises((ValueError, KeyError), match=message):
                store.consolidate(keep, k, candidates)


def test_consolidating_nothing(unchanged: Callable) -> None:
    store = Store(5)
    with unchanged(store), pytest.raises(ValueError, match="k is"):
        store.consolidate(Herding())


def test_plain_is_the_kind_of_what_is_not_declared() -> None:
    store = Store(5, columns={"x": Plain()})
    store.add({"x": torch.zeros(2), "y": torch.zeros(2)})
    assert {column["kind"] for column in store.summary()["columns"].values()} == {"Plain()"}
