"""EmbeddingCache: embeddings on disk, so that a text is embedded once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_KEY_BYTES = 16


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/memreplay/embeddings``, by default in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "memreplay", "embeddings")


class EmbeddingCache:
    """A folder of embeddings, keyed by the text and by everything that they depend on.

    Texts are not stored, only their checksums. Every call that finds texts missing adds one safetensors file, in one
    step, so that several processes may share the folder and a crash leaves nothing half-written; a file that cannot be
    read counts as absent.

    Args:
        folder: for all encoders; each has a sub-folder of its own.
        key: names the encoder with its pooling, length and precision.
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self.folder = Path(folder, hashlib.sha256(key.encode()).hexdigest()[:32])
        self._place: dict[bytes, tuple[Path, int]] = {}
        self._known: set[Path] = set()

    def __call__(self, texts: Sequence[str], embed: Callable[[list[str]], Tensor]) -> Tensor:
        """Embeddings (N, D), float32, of at least one text; ``embed`` makes those that are missing, each text once."""
        self._look()
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_KEY_BYTES] for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._place}
        if missing:
            self._write(b"".join(missing), embed(list(missing.values())).float().cpu())
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
