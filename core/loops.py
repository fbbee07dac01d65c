"""Loops: the compiled inner loops of a memory, or None where it was installed without a C compiler.

Everything they do is done in Python as well, with the same outcome.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

loops: ModuleType | None
try:
    loops = import_module("._loops", __package__)
except ImportError:
    loops = None
