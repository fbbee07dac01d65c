"""Files: a save is a safetensors file and a manifest, and the last one stays whole until the next is complete."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .block import allocate

FORMAT = 1
_MANIFEST = "manifest.json"
_DRAFT = ".memreplay-draft"
_PIECE = 1 << 20
"""Bytes written or read at a time, and then hashed."""


def write_save(folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes ``tensors`` and the JSON-able ``meta`` to ``folder``, which one process at a time may write to.

    The tensors go to ``data-<generation>.safetensors``, forced to disk before ``manifest.json``, which names that file
    and its checksum, is replaced in one step. Files of older generations are deleted last, and what is not finished
    lies in a folder that the next save clears. Whenever the process or the machine stops, the manifest names a complete
    file. Tensors are written from where they are; on a GPU, or with gaps, they are copied piece by piece.

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
        with (draft / data.name).open("xb") as file:
            size, checksum = _write(file, tensors)
            to_disk(file)
        manifest = {"format": FORMAT, "data": data.name, "bytes": size, "sha256": checksum, "meta": dict(meta)}
        with (draft / _MANIFEST).open("xb") as file:
            file.write(json.dumps({**manifest, "seal": _seal(manifest)}, indent=1).encode())
            to_disk(file)
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


class Save(Mapping[str, Tensor]):
    """A save, open for reading: what it says of itself, and what tensors it holds, as blanks without values.

    Whoever holds it open reads this save, also if the folder holds a newer one by then.

    Args:
        folder: where `write_save` put it.

    Attributes:
        meta: as it was given to `write_save`.

    Raises:
        FileNotFoundError: there is no save, or a file of it is gone.
        ValueError: a file is damaged, or was written by a newer version.
    """

    def __init__(self, folder: Path) -> None:
        text = _manifest_in(folder)
        while True:
            manifest = _parsed(text, folder / _MANIFEST)
            self.meta: dict[str, Any] = manifest["meta"]
            self._sha256: str = manifest["sha256"]
            self._path = folder / manifest["data"]
            try:
                if self._path.parent != folder or not self._path.is_file():
                    raise FileNotFoundError(
                        f"{folder / _MANIFEST} names {manifest['data']!r}, which is not in {folder}"
                    )
                self._file = self._path.open("rb", buffering=0)
                break
            except FileNotFoundError:
                before, text = text, _manifest_in(folder)
                if text == before:
                    raise  # else a newer save has taken its place meanwhile
        try:
            size = os.fstat(self._file.fileno()).st_size
            if size != manifest["bytes"]:
                wrong = f"has {size} bytes; expected {manifest['bytes']}: it was truncated or replaced"
                raise ValueError(f"{self._path} {wrong}")
            self._head, self._blanks = _layout(self._file, size, self._path)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Save:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __getitem__(self, name: str) -> Tensor:
        return self._blanks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blanks)

    def __len__(self) -> int:
        return len(self._blanks)

    def read(self, into: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The tensors, read and checked in one pass.

        Args:
            into: memory for some of them, used where dtype and shape are the same and it lies on the CPU in one piece.
                It is filled also where an error is raised.

        Raises:
            ValueError: the file does not match its checksum.
        """
        into = into or {}
        digest = hashlib.sha256(self._head)
        self._file.seek(len(self._head))
        tensors = {}
        for name, blank in self.items():
            given = into.get(name)
            if given is None or not _takes(given, blank):
                given = allocate(blank.shape, blank.dtype, torch.device("cpu"), None, name)
            tensors[name] = given
            values = _bytes(given)
            for start in range(0, len(values), _PIECE):
                piece = values[start : start + _PIECE]
                _read_exactly(self._file, piece, self._path)
                digest.update(piece)
        if digest.hexdigest() != self._sha256:
            raise ValueError(f"{self._path} does not match its checksum in {_MANIFEST}: it is damaged")
        return tensors


def read_save(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and meta written by `write_save`.

    Raises:
        FileNotFoundError: there is no save, or a file of it is gone.
        ValueError: a file is damaged, or was written by a newer version.
    """
    with Save(folder) as save:
        return save.read(), save.meta


def to_disk(target: Path | BinaryIO) -> None:
    """Forces an open file, the file at a path, or the names in a folder, to disk."""
    if not isinstance(target, Path):
        target.flush()
        os.fsync(target.fileno())
        return
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- the manifest ---------------------------------------------------------------------------------------------------


def _manifest_in(folder: Path) -> bytes:
    try:
        return (folder / _MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{folder} holds no save: there is no {_MANIFEST}") from None


def _parsed(text: bytes, path: Path) -> dict[str, Any]:
    """What a manifest says, if it is whole."""
    try:
        manifest = json.loads(text)
        version, seal = int(manifest["format"]), manifest.pop("seal", None)
        known = {"data": str(manifest["data"]), "bytes": int(manifest["bytes"])}
        known |= {"sha256": str(manifest["sha256"]), "meta": dict(manifest["meta"])}
    except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if version > FORMAT:
        raise ValueError(f"{path} has format {version}; this version of memreplay reads up to {FORMAT}")
    if seal != _seal(manifest):
        raise ValueError(f"{path} does not match its seal: it is damaged")
    return known


def _seal(manifest: Mapping[str, Any]) -> str:
    """A checksum of what a manifest says."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _generation(path: Path) -> int:
    number = path.stem.removeprefix("data-")
    return int(number) if number.isdigit() else 0


# -- the data file: https://huggingface.co/docs/safetensors, here so that one pass writes or reads and hashes --------

_CODES = {
    torch.bool: "BOOL",
    **{getattr(torch, f"uint{bits}"): f"U{bits}" for bits in (8, 16, 32, 64)},
    **{getattr(torch, f"int{bits}"): f"I{bits}" for bits in (8, 16, 32, 64)},
    **{getattr(torch, f"float{bits}"): f"F{bits}" for bits in (16, 32, 64)},
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    **{getattr(torch, f"float8_{name}"): f"F8_{name.upper()}" for name in ("e5m2", "e5m2fnuz", "e4m3fnuz")},
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e8m0fnu: "F8_E8M0",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


def _write(file: BinaryIO, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Writes a safetensors file; its size and checksum."""
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))  # so that all are aligned
    header, end = {}, 0
    for name, tensor in ordered.items():
        if tensor.dtype not in _CODES:
            raise TypeError(f"tensor {name!r} is {tensor.dtype}, which a safetensors file cannot hold")
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(head)
    _reserve(file, len(head) + end)
    file.write(head)
    for tensor in ordered.values():
        rows = torch.atleast_1d(tensor.detach())
        for part in rows.split(max(1, _PIECE * len(rows) // max(1, rows.nbytes))):
            piece = _bytes(part.cpu().contiguous())
            file.write(piece)
            digest.update(piece)
    return len(head) + end, digest.hexdigest()


def _reserve(file: BinaryIO, size: int) -> None:
    """Room for ``size`` bytes in one go, where the system can: quicker, and a disk that is too full tells at once."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise


def _layout(file: BinaryIO, size: int, path: Path) -> tuple[bytes, dict[str, Tensor]]:
    """The head of a safetensors file, and its tensors without values, in the order in which they lie there."""
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or length > size - 8:
        raise ValueError(f"{path} is no safetensors file: its header cannot have {length} bytes")
    head += file.read(length)
    try:
        entries = json.loads(head[8:])
        entries.pop("__metadata__", None)
        ordered = sorted(entries.items(), key=lambda item: item[1]["data_offsets"])
        blanks, end = {}, 0
        for name, entry in ordered:
            blanks[name] = torch.empty(tuple(entry["shape"]), dtype=_DTYPES[entry["dtype"]], device="meta")
            start, end = end, end + blanks[name].nbytes
            if entry["data_offsets"] != [start, end]:
                raise ValueError(f"{name!r} is {entry}; expected it at {start} to {end}")
        if len(head) + end != size:
            raise ValueError(f"its tensors have {end} bytes; expected {size - len(head)}")
    except (AttributeError, KeyError, RecursionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no safetensors file: {error!r}") from error
    return head, blanks


def _takes(memory: Tensor, blank: Tensor) -> bool:
    return (
        memory.device.type == "cpu"
        and memory.dtype is blank.dtype
        and memory.shape == blank.shape
        and memory.is_contiguous()
    )


def _bytes(values: Tensor) -> memoryview:
    """The memory of a tensor on the CPU that lies in one piece."""
    if not values.numel():
        return memoryview(b"")
    # a dimension of one may have any stride, and keeps it in a view
    return values.as_strided((values.numel(),), (1,)).view(torch.uint8).numpy().data


def _read_exactly(file: BinaryIO, piece: memoryview, path: Path) -> None:
    while len(piece):
        n = file.readinto(piece)  # type: ignore[attr-defined]
        if not n:
            raise ValueError(f"{path} ended too early: it was truncated")
        piece = piece[n:]
