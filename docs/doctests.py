"""An extension of griffe: examples in docstrings become blocks of code."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^( *)>>> (?:.*\n?)(?:(?!\s*\n|\s*$).*\n?)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Fences what starts with ``>>>`` and goes on to the next empty line."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(_fenced, obj.docstring.value)


def _fenced(found: re.Match[str]) -> str:
    indent, code = found[1], found[0].rstrip("\n")
    return f"{indent}```pycon\n{code}\n{indent}```\n"
