"""Saving and loading a memory, on the disk that holds temporary files."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from harness import Bench, main

from memreplay.core.stores import Store


def measure(bench: Bench) -> None:
    rows, dim = (10_000, 64) if bench.quick else (100_000, 512)
    batch = {"feature": torch.randn(rows, dim), "label": torch.arange(rows) % 100}
    store = Store(rows, device=bench.device)
    store.add(batch)
    arrays = [values.numpy() for values in batch.values()]
    with tempfile.TemporaryDirectory() as name:
        folder, other = Path(name, "save"), Path(name, "array.npy")

        def write() -> None:
            """As little as a save can do: the same rows, the same checksum, and on the disk when it returns."""
            digest = hashlib.sha256()
            with other.open("wb") as file:
                for array in arrays:
                    np.save(file, array)
                    digest.update(array)
                file.flush()
                os.fsync(file.fileno())

        def read() -> None:
            """As little as loading can do: all bytes of the save, and their checksum."""
            for path in folder.iterdir():
                hashlib.sha256(np.fromfile(path, np.uint8)).digest()

        store.save(folder)
        about = f"{rows:,} x {dim}"
        for clock, kind in ((time.process_time, "CPU"), (time.perf_counter, "wall")):
            peers = {"np.save, fsync, sha256": (write, 1 / 1.3)}
            bench.compare(
                f"save {about}, {kind} time", lambda: store.save(folder), peers, calls=1, rounds=11, clock=clock
            )
            peers = {"read, sha256": (read, 1 / 1.3)}
            bench.compare(
                f"load {about}, {kind} time", lambda: Store.load(folder), peers, calls=1, rounds=11, clock=clock
            )


if __name__ == "__main__":
    main(measure)
