"""Loops: the compiled inner loops of a memory, or None where it was installed without a C compiler.

Everything they do is done in Python as well, with the same outcome.
"""

from __future__ import annotations

import warnings
import zlib
from importlib import import_module
from pathlib import Path
from types import ModuleType


def compiled(package: str, name: str) -> ModuleType | None:
    """The module ``name`` of ``package``, compiled from the file of that name that lies there; None if there is none,
    or if it was compiled from another version of that file."""
    try:
        module = import_module(f".{name}", package)
    except ImportError:
        return None
    source = Path(str(module.__file__)).with_name(f"{name}.c")
    if source.exists() and zlib.crc32(source.read_bytes()) != getattr(module, "source", None):
        warnings.warn(
            f"{module.__file__} was not compiled from {source} as it is now, and is not used; install again",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return module


loops = compiled(str(__package__), "_loops")
