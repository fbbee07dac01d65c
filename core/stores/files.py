"""Files: a save is a safetensors file and a manifest, and the last one stays whole until the next is complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 1
_MANIFEST = "manifest.json"
_DRAFT = ".memreplay-draft"


def write_save(folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes ``tensors`` and the JSON-able ``meta`` to ``folder``.

    The tensors go to ``data-<generation>.safetensors``, forced to disk before ``manifest.json``, which names that file
    and its checksum, is replaced in one step. Files of older generations are deleted last, and what is not finished
    lies in a folder that the next save clears. Whenever the process or the machine stops, the manifest names a complete
    file.

    Raises:
        OSError: the folder cannot be written, or is full; the last save is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generation = 1 + max((_generation(path) for path in folder.glob("data-*.safetensors")), default=0)
    data = folder / f"data-{generation}.safetensors"
    draft = folder / _DRAFT
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir()
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, draft / data.name)
        except SafetensorError as error:
            raise OSError(f"cannot write {data}: {error}") from error
        manifest = {
            "format": FORMAT,
            "data": data.name,
            "bytes": (draft / data.name).stat().st_size,
            "sha256": _checksum(draft / data.name),
            "meta": dict(meta),
        }
        (draft / _MANIFEST).write_text(json.dumps({**manifest, "seal": _seal(manifest)}, indent=1))
        (draft / data.name).chmod((draft / _MANIFEST).stat().st_mode)  # safetensors grants others nothing
        to_disk(draft / data.name)
        to_disk(draft / _MANIFEST)
        os.replace(draft / data.name, data)
        to_disk(folder)
        os.replace(draft / _MANIFEST, folder / _MANIFEST)
    except Exception:
        data.unlink(missing_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        raise
    to_disk(folder)
    shutil.rmtree(draft, ignore_errors=True)
    for path in folder.glob("data-*.safetensors"):
        if path != data:
            path.unlink(missing_ok=True)


def read_save(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and meta written by `write_save`.

    Raises:
        FileNotFoundError: there is no save, or a file of it is gone.
        ValueError: a file is damaged, or was written by a newer version.
    """
    path = folder / _MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no save: there is no {_MANIFEST}")
    try:
        manifest = json.loads(path.read_text())
        version, name, size = int(manifest["format"]), str(manifest["data"]), int(manifest["bytes"])
        checksum, meta, seal = str(manifest["sha256"]), dict(manifest["meta"]), manifest.pop("seal", None)
    except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if version > FORMAT:
        raise ValueError(f"{path} has format {version}; this version of memreplay reads up to {FORMAT}")
    if seal != _seal(manifest):
        raise ValueError(f"{path} does not match its seal: it is damaged")
    data = folder / name
    if data.parent != folder or not data.is_file():
        raise FileNotFoundError(f"{path} names {name!r}, which is not in {folder}")
    if data.stat().st_size != size:
        raise ValueError(f"{data} has {data.stat().st_size} bytes; expected {size}: it was truncated or replaced")
    if _checksum(data) != checksum:
        raise ValueError(f"{data} does not match its checksum in {_MANIFEST}: it is damaged")
    try:
        return load_file(data), meta
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{data} is no safetensors file: {error}") from error


def _generation(path: Path) -> int:
    number = path.stem.removeprefix("data-")
    return int(number) if number.isdigit() else 0


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(manifest: Mapping[str, Any]) -> str:
    """A checksum of what a manifest says."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def to_disk(path: Path) -> None:
    """Forces a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
