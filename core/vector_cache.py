"""VectorCache: vectors on disk, so that each is computed once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_KEY_BYTES = 16


def cache_folder(name: str) -> Path:
    """``$XDG_CACHE_HOME/memreplay/NAME``, by default in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "memreplay", name)


class VectorCache:
    """A folder of vectors, keyed by what each was made of and by everything else that they depend on.

    What they were made of is not stored, only its checksums. Every call that finds vectors missing adds one safetensors
    file, in one step, so that several processes may share the folder and a crash leaves nothing half-written; a file
    that cannot be read counts as absent.

    Args:
        folder: for vectors of any kind; each kind has a sub-folder of its own.
        key: names the kind: the network with its weights, and how its inputs are prepared.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     cache = VectorCache(folder, "squares")
    ...     a = cache([b"1", b"2"], lambda rows: torch.tensor([[1.0], [4.0]])[rows])
    ...     cache([b"2", b"3"], lambda rows: print("missing:", rows) or torch.tensor([[9.0]]))
    missing: [1]
    tensor([[4.],
            [9.]])
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self.folder = Path(folder, hashlib.sha256(key.encode()).hexdigest()[:32])
        self._place: dict[bytes, tuple[Path, int]] = {}
        self._known: set[Path] = set()

    def __call__(
        self, contents: Sequence[Any], compute: Callable[[list[int]], Tensor], at_once: int | None = None
    ) -> Tensor:
        """Vectors (N, D), float32 on the CPU.

        Args:
            contents: bytes, or anything else that ``hashlib`` reads, of at least one thing.
            compute: makes the vectors (n, D) of the things at these positions; each thing is asked for once.
            at_once: how many to make before they are written; all by default.
        """
        self._look()
        keys = [hashlib.sha256(content).digest()[:_KEY_BYTES] for content in contents]
        missing: dict[bytes, int] = {}
        for number, key in enumerate(keys):
            if key not in self._place:
                missing.setdefault(key, number)
        asked = list(missing.values())
        for start in range(0, len(asked), at_once or len(asked) or 1):
            part = asked[start : start + (at_once or len(asked))]
            self._write(b"".join(keys[number] for number in part), compute(part).float().cpu())
        if asked:
            self._look()
        rows_in: dict[Path, list[int]] = {}
        for number, key in enumerate(keys):
            rows_in.setdefault(self._place[key][0], []).append(number)
        found = torch.empty(0)
        for path, numbers in rows_in.items():
            with safe_open(path, framework="pt") as file:
                features = file.get_tensor("features")
            if not len(found):
                found = features.new_empty(len(keys), features.shape[1])
            found[numbers] = features[[self._place[keys[number]][1] for number in numbers]]
        return found

    def _look(self) -> None:
        """Learns of the files that were added since."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path in self._known:
                continue
            try:
                with safe_open(path, framework="pt") as file:
                    keys = file.get_tensor("keys").numpy().tobytes()
            except (SafetensorError, OSError):
                continue
            self._known.add(path)
            for row in range(len(keys) // _KEY_BYTES):
                self._place.setdefault(keys[row * _KEY_BYTES : (row + 1) * _KEY_BYTES], (path, row))

    def _write(self, keys: bytes, features: Tensor) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{hashlib.sha256(keys).hexdigest()[:32]}.safetensors"
        draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
        table = torch.frombuffer(bytearray(keys), dtype=torch.uint8).view(-1, _KEY_BYTES)
        save_file({"keys": table, "features": features.contiguous()}, draft)
        os.replace(draft, path)
