"""Readers beside one writer, as documented: processes share saves, threads share a store and a lock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from memreplay.core.retrievers import Nearest
from memreplay.core.selection import ClassBalanced, Selector, TopScore, Uniform
from memreplay.core.stores import Store, files
from memreplay.core.stores.files import Save, read_save, write_save
from memreplay.core.stores.keeping import Fifo, Reservoir


def versioned(version: int, rows: int = 200) -> Store:
    store = Store(rows, seed=version)
    store.add(
        {"feature": torch.full((rows, 50), float(version)), "label": torch.full((rows,), version, dtype=torch.int64)}
    )
    return store


def version_in(folder: Path) -> int:
    rows = Store.load(folder).rows()
    version = int(rows["label"][0])
    assert (rows["label"] == version).all()
    assert (rows["feature"] == version).all()
    return version


@pytest.mark.parametrize("seconds", [1.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_whoever_loads_gets_a_whole_save(seconds: float, tmp_path: Path) -> None:
    """Another process saves again and again as fast as it can."""
    versioned(0).save(tmp_path / "save")
    command = [sys.executable, __file__, str(tmp_path / "save")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline(), "the writer did not start"
            seen, end = [0], time.monotonic() + seconds
            while time.monotonic() < end:
                seen.append(version_in(tmp_path / "save"))
        finally:
            writer.kill()
    assert seen == sorted(seen), "no save is older than one loaded before"
    assert len(set(seen)) > 3, "the writer was not at work"


def save_again_and_again(folder: Path) -> None:
    for version in range(1, 10**9):
        versioned(version).save(folder)
        print(version, flush=True)


def replacing(folder: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """A new save replaces the one in ``folder`` after its manifest was read, so many times; returns those left."""
    left = [times]
    real = files._parsed

    def parsed(*arguments: Any) -> dict[str, Any]:
        manifest = real(*arguments)
        if left[0]:
            left[0] -= 1
            write_save(folder, {"x": torch.tensor([left[0]])}, {"left": left[0]})
        return manifest

    monkeypatch.setattr(files, "_parsed", parsed)
    return left


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_save_that_is_replaced_while_it_is_opened(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_save(tmp_path, {"x": torch.tensor([times])}, {"left": times})
    left = replacing(tmp_path, monkeypatch, times)
    tensors, meta = read_save(tmp_path)
    assert tensors["x"].tolist() == [0]
    assert meta == {"left": 0}
    assert left == [0]


def test_a_save_that_vanishes_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_save(tmp_path, {"x": torch.zeros(1)}, {})
    real = files._parsed

    def parsed(*arguments: Any) -> dict[str, Any]:
        manifest = real(*arguments)
        (tmp_path / "data-1.safetensors").unlink(missing_ok=True)
        return manifest

    with monkeypatch.context() as patch:
        patch.setattr(files, "_parsed", parsed)
        with pytest.raises(FileNotFoundError, match=r"names 'data-1.safetensors', which is not in"):
            read_save(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no save"):
        read_save(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be deleted there")
def test_an_open_save_stays_while_others_replace_it(tmp_path: Path) -> None:
    versioned(1).save(tmp_path)
    with Save(tmp_path) as save:
        for version in (2, 3):
            versioned(version).save(tmp_path)
        tensors = save.read()
    assert (tensors["columns.label"] == 1).all()
    assert version_in(tmp_path) == 3


def test_a_save_says_what_it_holds_before_it_is_read(tmp_path: Path) -> None:
    given = {
        "a": torch.arange(6, dtype=torch.int16).reshape(2, 3),
        "b": torch.tensor(True),
        "c": torch.empty(0, 5, dtype=torch.bfloat16),
        "d": torch.randn(4, 6, generator=torch.Generator().manual_seed(0))[:, ::2],
        "e": torch.tensor([1 + 2j]),
    }
    write_save(tmp_path, given, {"note": "mine"})
    with Save(tmp_path) as save:
        assert save.meta == {"note": "mine"}
        assert {name: (blank.dtype, blank.shape, blank.device.type) for name, blank in save.items()} == {
            name: (tensor.dtype, tensor.shape, "meta") for name, tensor in given.items()
        }
        wide = torch.zeros(4, 6)
        into = {"a": torch.zeros(2, 3, dtype=torch.int16), "c": torch.zeros(1), "d": wide[:, ::2]}
        for _ in range(2):  # as often as one likes
            tensors = save.read(into)
            assert all(torch.equal(tensors[name], tensor) for name, tensor in given.items())
        assert tensors["a"] is into["a"]
        assert tensors["d"] is not into["d"], "memory with gaps is left alone"
        assert not wide.any()


@pytest.mark.parametrize("keep", [Reservoir(), TopScore("score"), ClassBalanced(Fifo())], ids=repr)
def test_threads_that_share_a_lock(keep: Selector) -> None:
    """Every row that is drawn is one that was added, and what a search finds was there."""
    store, lock, stop, wrong = Store(100, keep=keep), threading.Lock(), threading.Event(), []
    nearest = Nearest("feature", "dot")

    def batch(start: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(start, start + 64)
        return {"feature": ids[:, None].float().repeat(1, 64), "label": ids % 5, "score": ids.float(), "mark": ids}

    def read(by: Selector) -> None:
        try:
            while not stop.is_set():
                with lock:
                    rows = store.draw(16, by, query={"feature": torch.ones(1, 64)})
                    scores, slots = store.search({"feature": torch.ones(1, 64)}, 3, nearest)
                    found = store.rows()["mark"][slots]
                ids = rows.ids
                assert torch.equal(rows["mark"], ids)
                assert (rows["feature"] == ids[:, None]).all()
                assert torch.equal(rows["label"], ids % 5)
                assert torch.equal(scores, found * 64.0)
        except BaseException as error:
            wrong.append(error)

    store.add(batch(0))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    readers = [threading.Thread(target=read, args=(by,)) for by in (Uniform(), nearest)]
    try:
        for reader in readers:
            reader.start()
        for step in range(1, 100):
            with lock:
                store.add(batch(64 * step))
                if step % 10 == 0:
                    store.remove(store.draw(30))
    finally:
        stop.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    assert not wrong, wrong[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    save_again_and_again(Path(sys.argv[1]))
