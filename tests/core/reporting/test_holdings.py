import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from memreplay import ClassBalanced, Fifo, GaussianStore, Quantized, ReplayMemory, Reservoir, Store, Trace, jagged
from memreplay.core.adapter import Adapter
from memreplay.core.checkpoint import latest
from memreplay.core.reporting.holdings import holdings
from memreplay.core.stores import Half, Ragged
from memreplay.core.stores.files import write_save


@pytest.fixture
def store() -> Store:
    columns = {"feature": Quantized(), "text": Ragged(), "a": Half()}
    store = Store(20, keep=ClassBalanced(Reservoir()), columns=columns, fingerprint="f00d")
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        store.add(
            {
                "feature": torch.randn(6, 4, generator=generator),
                "text": jagged(["one", "four"] * 3),
                "label": torch.arange(6) % 3,
                "a": torch.rand(6, generator=generator),
                "a.b": torch.rand(6, 2, generator=generator),
            }
        )
    store.forget(label=2)
    return store


def test_a_store(store: Store, tmp_path: Path) -> None:
    store.save(tmp_path)
    found = json.loads(json.dumps(holdings(tmp_path), allow_nan=False))
    assert found["kind"] == "Store"
    told, rows = found["memories"][""], store.rows()
    assert (told["rows"], told["capacity"], told["seen"], told["fingerprint"]) == (len(store), 20, 60, "f00d")
    assert told["keep"] == "ClassBalanced(inner=Reservoir(), column='label')"
    assert told["bytes"] == store.nbytes
    assert told["bytes"] == told["books"] + sum(column["bytes"] for column in told["columns"].values())
    n = len(store)
    assert {name: told["columns"][name]["bytes"] for name in ("feature", "a", "a.b", "label")} == {
        "feature": n * 4 + n * 4,  # an int8 each and a scale
        "a": n * 2,
        "a.b": n * 8,
        "label": n * 8,
    }
    assert told["forgotten"] == store.audit
    age = 59 - rows.ids.numpy()
    quarters = (0, 0.25, 0.5, 0.75, 1)
    assert told["quantiles"]["age"] == np.quantile(age, quarters).tolist()
    assert told["quantiles"]["a"] == np.quantile(rows["a"].double().numpy(), quarters).tolist()
    assert "key" in told["quantiles"]
    assert told["classes"] == {
        str(of): {"rows": int((rows["label"] == of).sum()), "age": float(np.median(age[rows["label"] == of]))}
        for of in (0, 1)
    }
    assert told["recalled"] is None
    assert told["turnover"] is None


def test_what_was_recalled_and_kept(tmp_path: Path) -> None:
    trace = Trace()
    memory = ReplayMemory(Store(8, keep=Fifo()), replay=3, trace=trace)
    for _ in range(5):
        memory.remember(label=torch.tensor([0, 1, 1]))
        memory.recall()
    memory.save(tmp_path)
    told = holdings(tmp_path)["memories"][""]
    assert isinstance(memory.source, Store)
    rows = memory.source.rows()
    times = trace.counts(rows.ids)
    assert told["recalled"] == {"draws": trace.summary(), "never": int((times == 0).sum())}
    assert told["quantiles"]["times recalled"][-1] == int(times.max())
    assert told["classes"]["1"]["recalled"] == pytest.approx(float(times[rows["label"] == 1].double().mean()))
    assert told["turnover"]["1"] == {"offered": 10, "refused": 0, "gone": 4, "held": 6}


def test_a_run_is_looked_at_where_it_stands(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step-3-epoch-1"
    store.save(folder / "memory")
    (tmp_path / "checkpoints" / "latest").write_text(folder.name)
    assert latest(tmp_path / "checkpoints") == folder
    assert holdings(tmp_path)["folder"] == str(folder / "memory")


def test_statistics(tmp_path: Path) -> None:
    memory = GaussianStore()
    memory.add({"feature": torch.randn(6, 4), "label": torch.tensor([3, 3, 3, 3, 5, 5])})
    memory.save(tmp_path)
    told = holdings(tmp_path)["memories"][""]
    assert told["classes"] == {"3": {"rows": 4}, "5": {"rows": 2}}
    assert told["bytes"] == memory.nbytes


class Encoder:
    name = "none"

    def fingerprint(self) -> str:
        return "cafe"

    def description(self) -> dict[str, str]:
        return {"name": self.name, "fingerprint": self.fingerprint()}

    def tuned_weights(self) -> dict[str, Tensor]:
        return {}


class Texts(Adapter[Encoder]):
    kind = "adapter of a test"
    shown = "text"


def test_an_adapter_names_its_classes(tmp_path: Path) -> None:
    adapter = Texts(Encoder())
    rows = {"feature": torch.eye(4), "text": jagged(["a", "b", "c", "d"])}
    adapter.learn_rows(rows, ["cat", "dog", "cat", "dog"], ["cat", "dog"])
    adapter.save(tmp_path)
    found = holdings(tmp_path)
    assert found["kind"] == "adapter of a test"
    (told,) = found["memories"].values()
    assert {name: entry["rows"] for name, entry in told["classes"].items()} == {"cat": 2, "dog": 2}
    assert told["fingerprint"] == "cafe"


def test_every_memory_in_a_save_is_found(store: Store, tmp_path: Path) -> None:
    parts = {"objects": store.state_dict(), "background": GaussianStore().state_dict()}
    tensors = {f"memory.{name}.{n}": t for name, state in parts.items() for n, t in state["tensors"].items()}
    memory = {"kind": "two memories", **{name: state["meta"] for name, state in parts.items()}}
    write_save(tmp_path, tensors, {"kind": "detector", "classes": {"1": "dog"}, "memory": memory})
    found = holdings(tmp_path)["memories"]
    assert list(found) == ["memory.objects.", "memory.background."]
    assert set(found["memory.objects."]["classes"]) == {"0", "dog"}


class Mine:
    """A policy that no other program knows."""

    def __repr__(self) -> str:
        return "Mine(3)"

    def key(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        return batch["label"].double()


def test_a_policy_of_a_users_own_does_not_matter(tmp_path: Path) -> None:
    store = Store(3, keep=Mine())
    store.add({"label": torch.arange(5)})
    store.save(tmp_path)
    told = holdings(tmp_path)["memories"][""]
    assert (told["keep"], list(told["classes"])) == ("Mine(3)", ["2", "3", "4"])


def test_an_empty_store(tmp_path: Path) -> None:
    Store(3).save(tmp_path)
    told = holdings(tmp_path)["memories"][""]
    assert (told["rows"], told["bytes"], told["classes"], told["quantiles"]) == (0, 0, {}, {})


def test_mistakes_are_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"memory is '.*nowhere': there is no such folder; expected"):
        holdings(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"memory is .* holds no save: there is no manifest.json; expected"):
        holdings(tmp_path)
    write_save(tmp_path, {}, {"kind": "something else"})
    with pytest.raises(ValueError, match=r"it holds a 'something else' without a memory; expected"):
        holdings(tmp_path)
    store.save(tmp_path)
    (data,) = tmp_path.glob("data-*")
    whole = data.read_bytes()
    data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"memory is .* does not match its checksum in manifest.json: it is damaged"):
        holdings(tmp_path)
    data.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"memory is .* it was truncated or replaced"):
        holdings(tmp_path)
    write_save(tmp_path, {}, {"kind": "Store", "keep": "Fifo()"})
    with pytest.raises(ValueError, match=r"memory is .* is damaged"):
        holdings(tmp_path)
