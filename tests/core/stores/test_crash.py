"""Crashes: whenever a save is killed, runs out of room or may not write, the last one loads whole and verified."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from memreplay.core.batch import jagged
from memreplay.core.stores import GaussianStore, Half, Quantized, Ragged, Store, files

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


Run = Callable[..., None]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs functions of this file in processes without threads, which may be forked, limited and killed."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        requests, answers = program.stdin, program.stdout

        def call(function: Callable[..., None], *arguments: object) -> None:
            print(json.dumps([function.__name__, *map(str, arguments)]), file=requests, flush=True)
            assert answers.readline() == "done\n", "see what it wrote above"

        yield call
        requests.close()


def listing(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def versioned(rows: int, version: int) -> Store:
    """Every number in every column says which version it is."""
    kinds = {"half": Half(), "levels": Quantized(), "token": Ragged()}
    store = Store(rows, columns=kinds, seed=version, fingerprint=f"version:{version}")
    store.add(
        {
            "payload": torch.full((rows, 300), float(version)),
            "half": torch.full((rows,), float(version)),
            "levels": torch.full((rows, 2), float(version)),
            "label": torch.full((rows,), version),
            "token": jagged([[version] * (i % 3) for i in range(rows)]),
        }
    )
    return store


def version_in(folder: Path, rows: int) -> int:
    """The version saved there, of which nothing is missing or mixed."""
    store = Store.load(folder)
    columns = store.rows().columns
    version = int(columns["label"][0])
    assert len(store) == rows
    assert store.fingerprint == f"version:{version}"
    for values in columns.values():
        numbers = (values.values() if values.is_nested else values).double()
        assert torch.allclose(numbers, torch.tensor(float(version), dtype=torch.float64), rtol=1e-6)
    return version


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# -- killed at random points --------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_killed_at_random(kills: int, run: Run, tmp_path: Path) -> None:
    run(kill_at_random, tmp_path / "save", kills)


def kill_at_random(where: str, kills: str) -> None:
    """Each round a process saves version after version until it is killed; what it finished last must be there."""
    folder, rows, last, interrupted, choice = Path(where), 300, 1, 0, random.Random(0)
    store = versioned(rows, last)
    started = time.perf_counter()
    for _ in range(5):
        store.save(folder)
    length = (time.perf_counter() - started) / 5
    for _ in range(int(kills)):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            for version in range(last, 10**9):
                store = versioned(rows, version + 1)
                os.write(writing, version.to_bytes(8, "little"))
                store.save(folder)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            acknowledged = pipe.read(8)  # it is about to save
            time.sleep(choice.uniform(0, 3 * length))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            acknowledged += pipe.read()
        finished = int.from_bytes(acknowledged[-8:], "little")
        interrupted += len(os.listdir(folder)) > 2
        last = version_in(folder, rows)
        assert last in (finished, finished + 1), f"version {last} was loaded after {finished} had been saved"
    assert interrupted, "no kill hit a save"
    versioned(rows, last).save(folder)
    assert len(os.listdir(folder)) == 2, "what killed saves left behind is cleared away"


# -- killed at every line -----------------------------------------------------------------------------------------


@needs_fork
def test_killed_before_every_line(run: Run, tmp_path: Path) -> None:
    run(kill_before_every_line, tmp_path / "save")


def kill_before_every_line(where: str) -> None:
    """A save runs up to every line of its module for the first time; each finds what the one before left behind."""
    folder, found, finished = Path(where), [1], False
    versioned(5, 1).save(folder)
    while not finished:
        child = os.fork()
        if not child:
            store = versioned(5, found[-1] + 1)
            sys.settrace(killing_at(len(found)))
            store.save(folder)
            os._exit(0)
        finished = not os.waitpid(child, 0)[1]
        version = version_in(folder, 5)
        assert version in ({found[-1] + 1} if finished else {found[-1], found[-1] + 1})
        found.append(version)
    assert len(found) > 50, "a save has more lines than that"
    assert 1 < found[-1] < 20, "few lines come after the new manifest, most before"
    assert len(os.listdir(folder)) == 2


def killing_at(line: int) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that kills the process before the ``line``-th different line of the module that writes."""
    met = set()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != files.__file__:
            return None
        if event == "line":
            met.add(frame.f_lineno)
        if len(met) == line:
            die()
        return trace

    return trace


def test_nothing_is_named_before_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power failure would need to do harm: a name that reaches the disk before what it names."""
    done: list[tuple[str, str]] = []
    fsync, replace, unlink = os.fsync, os.replace, Path.unlink

    def forced(descriptor: int) -> None:
        fsync(descriptor)
        done.append(("force", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))

    def renamed(source: Path, target: Path) -> None:
        replace(source, target)
        done.append(("rename", Path(target).name))

    def deleted(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        done.append(("delete", path.name))

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs the names of open files")
    versioned(5, 1).save(tmp_path)
    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(Path, "unlink", deleted)
    versioned(5, 2).save(tmp_path)
    assert done == [
        ("force", "data-2.safetensors"),
        ("force", "manifest.json"),
        ("rename", "data-2.safetensors"),
        ("force", tmp_path.name),
        ("rename", "manifest.json"),
        ("force", tmp_path.name),
        ("delete", "data-1.safetensors"),
    ]


# -- no room, no right --------------------------------------------------------------------------------------------


@needs_fork
def test_a_full_disk(run: Run, tmp_path: Path) -> None:
    run(save_with_too_little_room, tmp_path / "save")


def save_with_too_little_room(where: str) -> None:
    """A limit on the size of files, so that the disk seems full after so many bytes."""
    import resource

    folder, store = Path(where), versioned(5, 1)
    store.save(folder)
    before, size = listing(folder), sum(len(content) for content in listing(folder).values())
    state = store.state_dict()
    for room in (0, 1, 8, 100, size // 2, size - len(before["manifest.json"]) - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match=r"too large|No space"):
            store.save(folder)
        assert listing(folder) == before
        assert same(store.state_dict(), state)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    versioned(5, 2).save(folder)
    assert version_in(folder, 5) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, unchanged: Callable) -> None:
    folder = small_disk / "save"
    for rows in (200, 180):  # each a quarter of the disk
        versioned(rows, rows).save(folder)
    before, many = listing(folder), versioned(700, 2)
    with unchanged(many), pytest.raises(OSError, match="No space left"):
        many.save(folder)  # as much as the disk holds, beside the save that is there
    assert listing(folder) == before
    gaussian = GaussianStore()
    gaussian.add({"feature": torch.ones(2, 100_000), "label": torch.arange(2)})
    with unchanged(gaussian), pytest.raises(OSError, match="No space left"):
        gaussian.save(folder)
    assert listing(folder) == before
    with (small_disk / "rest").open("wb", buffering=0) as rest:
        rest.write(bytes(1 << 20))  # as many of them as there is room for
    with pytest.raises(OSError, match="No space left"):
        versioned(1, 1).save(folder)  # not even room for a manifest
    assert version_in(folder, 180) == 180
    (small_disk / "rest").unlink()
    versioned(200, 3).save(folder)
    assert version_in(folder, 200) == 3


@needs_fork
def test_a_folder_that_cannot_be_written(run: Run) -> None:
    with tempfile.TemporaryDirectory() as folder:  # not below a folder that only its owner may enter
        Path(folder).chmod(0o755)
        run(save_without_rights, Path(folder) / "save")
        (Path(folder) / "save").chmod(0o755)


def save_without_rights(where: str) -> None:
    """In a process that has no more rights than the owner of nothing."""
    folder, store = Path(where), versioned(5, 2)
    versioned(5, 1).save(folder)
    before = listing(folder)
    state = store.state_dict()
    folder.chmod(0o555)
    if os.geteuid() == 0:  # who may write everywhere
        os.setuid(65534)
    for place in (folder, folder / "below"):
        with pytest.raises(PermissionError, match=str(folder)):
            store.save(place)
    assert listing(folder) == before
    assert same(store.state_dict(), state)
    assert version_in(folder, 5) == 1


def same(one: Any, other: Any) -> bool:
    return one["meta"] == other["meta"] and all(
        torch.equal(tensor, other["tensors"][name]) for name, tensor in one["tensors"].items()
    )


def serve() -> None:
    """The program behind `run`."""
    torch.set_num_threads(1)
    versioned(3, 1)  # what is imported on first use is there in every child
    for request in sys.stdin:
        name, *arguments = json.loads(request)
        child = os.fork()
        if not child:
            try:
                globals()[name](*arguments)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print("failed" if os.waitpid(child, 0)[1] else "done", flush=True)


if __name__ == "__main__":
    serve()
