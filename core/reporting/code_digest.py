"""The digest of a package's source, so that figures of different code are never taken for each other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path


def code_digest(folders: Sequence[Path], without: Sequence[Path] = ()) -> str:
    """Sixteen hexadecimal digits that depend on the names and contents of the Python and C files in ``folders``, but
    for the files ``without``.

    Raises:
        ValueError: there is no such file.

    >>> len(code_digest([Path(__file__).parent]))
    16
    """
    found = hashlib.sha256()
    files = sorted((path.relative_to(folder).as_posix(), path) for folder in folders for path in folder.rglob("*"))
    files = [(name, path) for name, path in files if path.suffix in (".py", ".c") and path not in without]
    if not files:
        raise ValueError(f"folders is {[str(folder) for folder in folders]}; expected source files in them")
    for name, path in files:
        content = path.read_bytes()
        found.update(f"{name} {len(content)} ".encode())
        found.update(content)
    return found.hexdigest()[:16]
