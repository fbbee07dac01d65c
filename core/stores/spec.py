"""Spec: policies and column kinds as text, and back, without running anything but their constructors."""

from __future__ import annotations

import ast
from dataclasses import is_dataclass
from typing import Any

from .. import selection
from . import columns, keeping, ragged

_CLASSES = {
    name: cls
    for module in (selection, keeping, columns, ragged)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and is_dataclass(cls)
}


def build(text: str, argument: str) -> Any:
    """The object whose ``repr`` is ``text``, such as ``ClassBalanced(inner=Reservoir(), column='label')``.

    Only classes of this package are known, and their arguments must be literals or such objects.

    Args:
        text: from a manifest.
        argument: how the caller can hand in the object instead; named in the error.

    Raises:
        ValueError: the text names anything else.

    >>> build("Half()", "columns")
    Half()
    """
    try:
        return _build(ast.parse(text, mode="eval").body)
    except (KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"cannot rebuild {text!r}; pass {argument}= with the object it was saved with") from error


def _build(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and None not in [k.arg for k in node.keywords]:
        arguments = {str(keyword.arg): _build(keyword.value) for keyword in node.keywords}
        return _CLASSES[node.func.id](*map(_build, node.args), **arguments)
    return ast.literal_eval(node)
