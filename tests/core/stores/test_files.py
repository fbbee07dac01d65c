"""Saves: whole or not at all, whatever dies, fills up, goes missing or is forged."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memreplay.core.batch import jagged
from memreplay.core.selection import ClassBalanced
from memreplay.core.stores import GaussianStore, Half, Quantized, Ragged, Store, files
from memreplay.core.stores.keeping import Fifo, Reservoir

DAMAGED = (ValueError, FileNotFoundError)


def small(seed: int = 0, **options: Any) -> Store:
    store = Store(8, columns={"half": Half(), "levels": Quantized(), "token": Ragged()}, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 3, generator=generator)
    store.add(
        {
            "feature": x,
            "half": x,
            "levels": x,
            "label": torch.arange(20) % 4,
            "token": jagged([[i] * (i % 3) for i in range(20)]),
        }
    )
    return store


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    small().save(tmp_path / "save")
    return tmp_path / "save"


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def forge(folder: Path, **changes: Any) -> None:
    """Rewrites the manifest, with a seal and checksums that fit."""
    manifest = {**manifest_of(folder), **changes}
    data = folder / str(manifest["data"])
    if data.is_file():
        manifest |= {"bytes": data.stat().st_size, "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
    manifest.pop("seal")
    manifest["seal"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def data_of(folder: Path) -> Path:
    return folder / manifest_of(folder)["data"]


def listing(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


# -- what a save is -----------------------------------------------------------------------------------------------


def test_a_save_is_a_manifest_and_one_data_file(tmp_path: Path, assert_same: Callable) -> None:
    folder = tmp_path / "new" / "deep"
    (tmp_path / "new").mkdir()
    for generation in (1, 2, 3):
        store = small(seed=generation)
        store.save(str(folder))
        assert sorted(listing(folder)) == [f"data-{generation}.safetensors", "manifest.json"]
        assert_same(Store.load(str(folder)).state_dict(), store.state_dict())


def test_other_files_in_the_folder_are_left_alone(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    (saved / "data.csv").write_text("mine")
    store = Store(4, path=saved)
    store.add({"x": torch.ones(4)})
    store.save(saved)
    assert {"notes.txt", "data.csv", "x.column", "manifest.json"} <= listing(saved).keys()
    assert store.rows()["x"].tolist() == Store.load(saved).rows()["x"].tolist() == [1.0] * 4


def test_a_save_in_the_working_directory(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved)
    assert len(Store.load(".")) == 8
    Store.load("").save(".")
    assert len(Store.load(Path("../save"))) == 8


@pytest.mark.parametrize(
    "made", [Store(5), Store(budget="1MB"), Store(5, columns={"x": Half()}, fingerprint="e")], ids=repr
)
def test_an_empty_store_is_saved(made: Store, tmp_path: Path, assert_same: Callable) -> None:
    made.save(tmp_path)
    assert_same(Store.load(tmp_path).state_dict(), made.state_dict())


# -- failing ------------------------------------------------------------------------------------------------------


def failing(real: Callable, at: int) -> Callable:
    """``real``, except that the call number ``at`` finds the disk full."""
    calls = iter(range(10**9))

    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls) == at:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    return call


@pytest.mark.parametrize(
    ("owner", "name", "at"),
    [
        (files, "_reserve", 0),
        (files, "_bytes", 0),
        (files, "_bytes", 5),
        (os, "fsync", 0),
        (os, "fsync", 1),
        (os, "fsync", 2),
        (json, "dumps", 1),
        (os, "replace", 0),
        (os, "replace", 1),
    ],
)
def test_a_save_that_fails_leaves_the_last_one(
    owner: Any,
    name: str,
    at: int,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    unchanged: Callable,
    assert_same: Callable,
) -> None:
    before, store = listing(saved), small(seed=3)
    with monkeypatch.context() as patch, unchanged(store):
        patch.setattr(owner, name, failing(getattr(owner, name), at))
        with pytest.raises(OSError, match="No space left"):
            store.save(saved)
    assert listing(saved) == before
    store.save(saved)
    assert_same(Store.load(saved).state_dict(), store.state_dict())


def test_a_save_whose_very_last_step_fails_is_whole(
    saved: Path, monkeypatch: pytest.MonkeyPatch, assert_same: Callable
) -> None:
    """The new manifest is in place, but nobody knows whether its name is on the disk: the old data stay too."""
    store = small(seed=3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(os.fsync, 3))
        with pytest.raises(OSError, match="No space left"):
            store.save(saved)
    assert {"data-1.safetensors", "data-2.safetensors"} <= listing(saved).keys()
    assert_same(Store.load(saved).state_dict(), store.state_dict())
    store.save(saved)
    assert sorted(listing(saved)) == ["data-3.safetensors", "manifest.json"]


@pytest.mark.parametrize("target", ["data-2.safetensors", "manifest.json"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_save_interrupted_by_the_user_is_whole(
    when: str, target: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def interrupted(source: Path, destination: Path) -> None:
        if destination.name != target or when == "after":
            replace(source, destination)
        if destination.name == target:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small(seed=3).save(saved)
    there = small(seed=3 if (when, target) == ("after", "manifest.json") else 0)
    assert torch.equal(Store.load(saved).rows().ids, there.rows().ids)
    small(seed=4).save(saved)
    assert len(os.listdir(saved)) == 2


def test_others_may_read_what_they_may_read_of_any_file(saved: Path) -> None:
    (saved / "other").write_text("")
    assert {file.stat().st_mode for file in saved.iterdir()} == {(saved / "other").stat().st_mode}


def test_a_file_in_place_of_the_folder(tmp_path: Path, unchanged: Callable) -> None:
    (tmp_path / "file").write_text("mine")
    store = small()
    with unchanged(store):
        for folder in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(OSError, match="file"):
                store.save(folder)
    assert (tmp_path / "file").read_text() == "mine"


# -- damaged and forged -------------------------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no save.*manifest.json"):
        Store.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Store.load(tmp_path / "nowhere")
    data_of(saved).unlink()
    with pytest.raises(FileNotFoundError, match=r"data-1.safetensors"):
        Store.load(saved)


def test_no_byte_can_flip_unseen(saved: Path, assert_same: Callable) -> None:
    expected = Store.load(saved).state_dict()
    choice = random.Random(0)
    for file in (saved / "manifest.json", data_of(saved)):
        content = file.read_bytes()
        places = choice.sample(range(len(content)), 100)
        if file.suffix == ".safetensors":  # the length of the header, its ends, and the ends of every tensor
            length = 8 + int.from_bytes(content[:8], "little")
            entries = json.loads(content[8:length]).values()
            ends = {length + offset for entry in entries for offset in entry["data_offsets"]}
            places += [*range(10), length - 1, *(end - 1 for end in ends), *(ends - {len(content)})]
        for place in places:
            changed = bytearray(content)
            changed[place] ^= 1 << choice.randrange(8)
            file.write_bytes(changed)
            try:
                state = Store.load(saved).state_dict()
            except DAMAGED:
                continue
            assert_same(state, expected)  # a blank between two words may change
        file.write_bytes(content)
    assert_same(Store.load(saved).state_dict(), expected)


def test_truncated_files(saved: Path) -> None:
    for file in (saved / "manifest.json", data_of(saved)):
        content = file.read_bytes()
        for length in {0, 1, 7, 8, 9, len(content) // 2, len(content) - 1}:
            file.write_bytes(content[:length])
            with pytest.raises(ValueError, match=r"damaged|truncated"):
                Store.load(saved)
        file.write_bytes(content)


def test_files_of_two_saves_do_not_mix(tmp_path: Path, saved: Path) -> None:
    small(seed=3).save(tmp_path / "other")
    data_of(saved).write_bytes(data_of(tmp_path / "other").read_bytes())
    with pytest.raises(ValueError, match=r"checksum|truncated"):
        Store.load(saved)


def test_a_manifest_of_a_newer_format(saved: Path) -> None:
    forge(saved, format=files.FORMAT + 1, more="to come")
    with pytest.raises(
        ValueError, match=f"format {files.FORMAT + 1}; this version of memreplay reads up to {files.FORMAT}"
    ):
        Store.load(saved)


@pytest.mark.parametrize(
    "name", ["../other/data-1.safetensors", "/etc/hostname", "sub/data-1.safetensors", "..", ".", ""]
)
def test_a_manifest_that_names_a_file_elsewhere(name: str, tmp_path: Path, saved: Path) -> None:
    for other in (tmp_path / "other", saved / "sub"):
        small().save(other)
    forge(saved, data=name)
    with pytest.raises(FileNotFoundError, match="which is not in"):
        Store.load(saved)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"format": 1e999}', b'{"format": "new"}']
)
def test_a_manifest_that_is_none(content: bytes, saved: Path) -> None:
    (saved / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        Store.load(saved)


class Bomb:
    """A pickle that would leave a file behind if it were loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str, str]]:
        return (os.system, (f"touch {self.path}",))


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "header",
    [
        [],
        None,
        7,
        {"x": 7},
        {"x": {}},
        {"x": entry(dtype="F33")},
        {"x": entry(dtype=["F32"])},
        {"x": entry(shape=2)},
        {"x": entry(shape=[-2])},
        {"x": entry(shape=["2"])},
        {"x": entry(shape=[2.5])},
        {"x": entry(shape=[3])},
        {"x": entry(shape=[2**40, 2**40])},
        {"x": entry(shape=[0, 2**62, 2**62])},
        {"x": entry(shape=[2**80])},
        {"x": entry(offsets=[8, 16])},
        {"x": entry(offsets=[0, 4])},
        {"x": entry(offsets=[-8, 0])},
        {"x": entry(offsets=None)},
        {"x": entry(), "y": entry()},
        {"x": entry(), "y": entry(offsets=[16, 24])},
        {"x": entry(shape=[], offsets=[0, 4])},
    ],
    ids=str,
)
def test_a_header_that_is_forged(header: Any, tmp_path: Path) -> None:
    """With lengths and checksums that fit, so that only the header itself can give it away."""
    for text in (json.dumps(header).encode(), json.dumps(header).encode()[:-1], b"[" * 100_000, b"\xff"):
        files.write_save(tmp_path, {"x": torch.ones(2)}, {})
        data_of(tmp_path).write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
        forge(tmp_path)
        with pytest.raises(ValueError, match="no safetensors file"):
            files.read_save(tmp_path)


@pytest.mark.parametrize("length", [2, 2**20, 2**62, 2**64 - 1])
def test_a_header_of_another_length(length: int, saved: Path) -> None:
    content = data_of(saved).read_bytes()
    data_of(saved).write_bytes(length.to_bytes(8, "little") + content[8:])
    forge(saved)
    with pytest.raises(ValueError, match="no safetensors file"):
        Store.load(saved)


DTYPES = sorted({dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}, key=str)
WARNED_OF = ("torch.q", "torch.complex32")


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if not str(dtype).startswith(WARNED_OF)], ids=str)
def test_every_dtype_is_written_as_the_library_reads_it(dtype: torch.dtype, tmp_path: Path) -> None:
    """What safetensors knows comes back from it; what it does not is refused, and nothing is left behind."""
    try:
        tensor = torch.randint(0, 2, (3, 5)).to(dtype)
        (tmp_path / "library").mkdir()
        save_file({"x": tensor}, tmp_path / "library" / "x")
    except (KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
        with pytest.raises(TypeError, match=r"safetensors file cannot hold"):
            files.write_save(tmp_path / "ours", {"x": torch.empty(0, dtype=dtype)}, {})
        assert os.listdir(tmp_path / "ours") == []
        return
    files.write_save(tmp_path / "ours", {"x": tensor, "other": torch.zeros(3, dtype=torch.uint8)}, {})
    ours = files.read_save(tmp_path / "ours")[0]["x"]
    theirs = load_file(data_of(tmp_path / "ours"))["x"]
    for found in (ours, theirs):
        assert (found.dtype, found.shape) == (dtype, tensor.shape)
        assert torch.equal(found.view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("protocol", ["pickle", "torch"])
def test_a_pickle_in_disguise_is_not_run(protocol: str, tmp_path: Path, saved: Path) -> None:
    if protocol == "pickle":
        data_of(saved).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    else:
        torch.save({"books.id": Bomb(tmp_path / "exploded")}, data_of(saved))
    forge(saved)
    with pytest.raises(ValueError, match="no safetensors file"):
        Store.load(saved)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "keep",
    [
        "__import__('os').system('touch exploded')",
        "Reservoir().__class__",
        "Store(5)",
        "TopScore(column=open('exploded', 'w'))",
        "ClassBalanced(inner=(lambda: 1)())",
        "Reservoir(",
        "",
        "1",
    ],
)
def test_a_policy_is_rebuilt_without_running_code(
    keep: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for change in ({"keep": keep}, {"kinds": {"half": keep}}):
        small().save(saved)
        forge(saved, meta={**manifest_of(saved)["meta"], **change})
        with pytest.raises((ValueError, TypeError)):
            Store.load(saved)
    assert not (tmp_path / "exploded").exists()


def test_another_kind_of_memory(saved: Path) -> None:
    forge(saved, meta={**manifest_of(saved)["meta"], "kind": "GaussianStore"})
    with pytest.raises(ValueError, match="holds a 'GaussianStore'; expected a 'Store'"):
        Store.load(saved)


@pytest.mark.parametrize(
    "missing",
    ["keep", "columns", "kinds", "capacity", "budget", "seed", "audit", "skipped", "fingerprint", "ranked_by"],
)
def test_a_manifest_that_lacks_something(missing: str, saved: Path) -> None:
    meta = manifest_of(saved)["meta"]
    del meta[missing]
    forge(saved, meta=meta)
    with pytest.raises(ValueError, match=missing):
        Store.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"capacity": 3},
        {"capacity": "many"},
        {"capacity": -1},
        {"seed": "x"},
        {"columns": {"feature": {"kind": "Plain()", "dtype": "load", "shape": [3]}}},
        {"columns": {"feature": {"kind": "Plain()", "dtype": "nothing", "shape": [3]}}},
        {"columns": {"feature": {"kind": "Plain()", "dtype": "float32"}}},
        {"columns": {"feature": {"kind": "Plain()", "dtype": "float32", "shape": [-3]}}},
        {"columns": {"other": {"kind": "Plain()", "dtype": "float32", "shape": [3]}}},
        {"columns": []},
        {"audit": None},
    ],
    ids=str,
)
def test_a_manifest_that_says_something_else(change: dict[str, Any], saved: Path) -> None:
    forge(saved, meta={**manifest_of(saved)["meta"], **change})
    with pytest.raises(ValueError, match=r"\w"):
        Store.load(saved)


def test_tensors_that_do_not_fit(saved: Path, unchanged: Callable) -> None:
    """Every tensor of the data file in turn: missing, shorter, of another dtype or shape."""
    content = data_of(saved).read_bytes()
    target = small(seed=5)
    state = small().state_dict()
    for name, tensor in load_file(data_of(saved)).items():
        changes: list[torch.Tensor | None] = [None, tensor[:-1].clone(), tensor.unsqueeze(0)]
        if name.startswith("columns."):
            changes.append(tensor.to(torch.int16))
        for change in changes:
            tensors = load_file(data_of(saved))
            tensors.pop(name)
            if change is not None:
                tensors[name] = change
            save_file(tensors, data_of(saved))
            forge(saved)
            with pytest.raises(ValueError, match=r"\w"):
                Store.load(saved)
            with unchanged(target), pytest.raises(ValueError, match=r"\w"):
                target.load_state_dict({"tensors": tensors, "meta": state["meta"]})
            data_of(saved).write_bytes(content)


def test_offsets_that_fall(saved: Path, unchanged: Callable) -> None:
    store = small()
    for wrong in ([0, 5, 3, *[6] * 6], [1, *[6] * 8]):
        state = small().state_dict()
        state["tensors"]["columns.token.offsets"] = torch.tensor(wrong)
        with unchanged(store), pytest.raises(ValueError, match=r"token.offsets"):
            store.load_state_dict(state)


# -- forgotten ----------------------------------------------------------------------------------------------------


def test_a_source_that_is_forgotten_is_in_no_file(tmp_path: Path) -> None:
    """One source among several of every class; its rows are told by their numbers, in the bytes of all files."""
    secret, value = 1234567890123456789, 0.0123456
    patterns = {
        "source": secret.to_bytes(8, "little"),
        "feature": torch.full((3,), value).numpy().tobytes(),
        "half": torch.full((6,), value).half().numpy().tobytes(),
        "levels": (torch.tensor(value) / 127).numpy().tobytes(),
        "token": secret.to_bytes(8, "little") * 2,
    }
    kinds = {"half": Half(), "levels": Quantized(), "token": Ragged()}
    store = Store(30, keep=ClassBalanced(Reservoir()), columns=kinds, path=tmp_path / "mapped", seed=0)
    for source, number in [(1, 0.5), (secret, value), (2, 0.25), (secret, value), (3, 1.0)]:
        x = torch.full((10, 6), number)
        store.add(
            {
                "feature": x,
                "half": x,
                "levels": x,
                "label": torch.arange(10) % 3,
                "source": torch.full((10,), source),
                "token": jagged([[source] * 4] * 10),
            }
        )
    store.save(tmp_path / "save")
    files_now = [file for file in tmp_path.rglob("*") if file.is_file()]
    for folder in ("save", "mapped"):
        content = b"".join(file.read_bytes() for file in files_now if folder in file.parts)
        assert [name for name, pattern in patterns.items() if pattern not in content] == []
    assert store.forget(source=secret) > 0
    store.save(tmp_path / "save")
    for file in tmp_path.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert [name for name, pattern in patterns.items() if pattern in content] == [], file


@pytest.mark.parametrize("covariance", ["diag", "full", "lowrank:2"])
def test_a_class_that_is_forgotten_is_in_no_statistic_on_disk(covariance: str, tmp_path: Path) -> None:
    """The save is that of a memory which never saw the class, but for the count of rows seen and the audit."""
    generator = torch.Generator().manual_seed(0)
    batch = {
        "feature": torch.randn(60, 4, generator=generator),
        "label": torch.tensor([3, 1234567890123456789, 5]).repeat(20),
    }
    kept = batch["label"] < 10
    one, other = GaussianStore(covariance=covariance), GaussianStore(covariance=covariance)
    one.add(batch)
    other.add({name: values[kept] for name, values in batch.items()})
    one.save(tmp_path / "one")
    assert (1234567890123456789).to_bytes(8, "little") in data_of(tmp_path / "one").read_bytes()
    assert one.forget(label=1234567890123456789) == 20
    one.draw(5)
    one.save(tmp_path / "one")
    other.draw(5)
    other.save(tmp_path / "other")
    assert len(os.listdir(tmp_path / "one")) == 2
    assert data_of(tmp_path / "one").read_bytes() == data_of(tmp_path / "other").read_bytes()


# -- of another kind ----------------------------------------------------------------------------------------------


def one(capacity: int = 8, x: torch.Tensor | None = None, **options: Any) -> Store:
    store = Store(capacity, **options)
    store.add({"x": torch.ones(2, 3) if x is None else x, "label": torch.zeros(2, dtype=torch.int64)})
    return store


@pytest.mark.parametrize(
    ("here", "there", "message"),
    [
        (one(), one(x=torch.ones(2, 4)), r"'x'.*\[4\].*\[3\]"),
        (one(), one(x=torch.ones(2, 3, dtype=torch.float64)), r"'x'.*float64.*float32"),
        (one(), one(keep=Fifo()), r"Fifo\(\).*Reservoir\(\)"),
        (
            one(),
            one(keep=ClassBalanced(Reservoir())),
            r"ClassBalanced.*Reservoir\(\)",
        ),
        (one(), one(capacity=9), r"capacity 9.*8"),
        (one(), one(columns={"x": Half()}), r"Half\(\).*Plain\(\)"),
        (Store(8), one(columns={"x": Half()}), r"Half\(\).*Plain\(\)"),
        (Store(8, columns={"x": Half()}), one(), r"Plain\(\).*Half\(\)"),
        (one(fingerprint="a:1"), one(fingerprint="b:2"), r"b:2.*a:1"),
        (one(fingerprint="a:1"), one(), r"None.*a:1"),
    ],
)
def test_a_store_that_does_not_match_is_refused(
    here: Store, there: Store, message: str, tmp_path: Path, unchanged: Callable
) -> None:
    with unchanged(here), pytest.raises(ValueError, match=message):
        here.load_state_dict(there.state_dict())


@pytest.mark.parametrize("more", ["here", "there"])
def test_other_columns_are_refused(more: str, unchanged: Callable) -> None:
    few, many = Store(8), Store(8)
    few.add({"x": torch.ones(2)})
    many.add({"x": torch.ones(2), "y": torch.ones(2)})
    here, there = (many, few) if more == "here" else (few, many)
    with unchanged(here), pytest.raises(ValueError, match=r"columns \['x'.*this store has \['x'"):
        here.load_state_dict(there.state_dict())


def test_the_encoder_is_checked(tmp_path: Path) -> None:
    one(fingerprint="resnet20:1234").save(tmp_path)
    assert Store.load(tmp_path).fingerprint == "resnet20:1234"
    assert Store.load(tmp_path, fingerprint="resnet20:1234").fingerprint == "resnet20:1234"
    with pytest.raises(ValueError, match=r"resnet20:1234.*resnet50:99"):
        Store.load(tmp_path, fingerprint="resnet50:99")


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"meta": {}},
        {"tensors": {}, "meta": {}},
        {"tensors": {}, "meta": {"kind": "Store"}},
        {"meta": None, "tensors": {}},
    ],
)
def test_a_state_that_is_none(state: dict[str, Any], unchanged: Callable) -> None:
    store = small()
    with unchanged(store), pytest.raises(ValueError, match="state"):
        store.load_state_dict(state)
