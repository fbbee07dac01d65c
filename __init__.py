"""Memory replay: few-shot learning that does not forget.

The names of `memreplay.core` are names of this package too; they are imported when the first of them is used, so that
``import memreplay`` itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .core import *
else:

    def __getattr__(name: str) -> Any:
        if name == "__all__" or not name.startswith("_"):
            # by its full name: pytest takes the repository's folder for a package and imports this file under another
            core = import_module("memreplay.core")
            if name == "__all__":
                return core.__all__
            if name in core.__all__:
                return getattr(core, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *import_module("memreplay.core").__all__})
