"""Held: what a memory holds, class by class, as people can look at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...batch import take, texts
from ...stores.gaussian import GaussianStore
from ...stores.rows import Rows
from ...stores.store import Store
from ..holdings import holdings
from ..picture import data_uri, is_picture
from ..saved import Saved, class_column, named
from ..trace import Trace

SHOWN = 12
"""Rows of a class that are shown, and in all at most 20 times as many."""
TEXT = 280
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Item:
    """A row of a memory.

    Attributes:
        id: its arrival number.
        label: its class.
        text: what it is, or is called.
        picture: a URI, where it is an image.
        recalled: how often; None without a trace.
        score: mean of what it was recalled by.
    """

    id: int
    label: str
    text: str
    picture: str | None
    recalled: int | None
    score: float | None = None


@dataclass(frozen=True)
class Group:
    """Rows of a class.

    Attributes:
        label: the class.
        rows: how many the memory holds.
        items: some of them: the most recalled first, or as they came; later those that a prediction rests on.
        shown: how many of the items are shown for their own sake.
        seen: of the class, what was offered, refused, gone and held; None without a trace.
        recalled: mean over the rows held; None without a trace.
    """

    label: str
    rows: int
    items: list[Item]
    shown: int = 0
    seen: dict[str, int] | None = None
    recalled: float | None = None


@dataclass(frozen=True)
class Held:
    """A memory.

    Attributes:
        place: in its save.
        told: as `holdings` tells it.
        groups: its rows by class, the largest class first; without labels one group.
        often: the rows recalled most often, and those that are no longer there.
        spread: how many rows were recalled so often, by how often; empty without a trace.
    """

    place: str
    told: dict[str, Any]
    groups: list[Group]
    often: list[Item]
    spread: dict[int, int]

    def item(self, row: int) -> Item | None:
        """The row with an arrival number, if it is shown."""
        return next((item for group in self.groups for item in group.items if item.id == row), None)


def read_held(folder: Path, names: Mapping[str, str], wanted: Mapping[str, set[int]] | None = None) -> list[Held]:
    """The memories of a save.

    Args:
        folder: of the save, or of a run with checkpoints.
        names: of classes, where the save has none itself.
        wanted: arrival numbers of rows to show in any case, by the place of the memory.

    Returns:
        None at all where the save holds no memory.

    Raises:
        FileNotFoundError: there is no save.
        ValueError: it is damaged.
    """
    saved = Saved.read(folder)
    if not saved.memories:
        return []
    told = holdings(folder)
    known = saved.names or dict(names)
    found = []
    for place, memory in saved.memories.items():
        about = told["memories"][place]
        if isinstance(memory, GaussianStore):
            groups = [Group(named(name, known), entry["rows"], []) for name, entry in about["classes"].items()]
            found.append(Held(place, about, groups, [], {}))
        else:
            found.append(_held(place, memory, about, known, saved.trace, (wanted or {}).get(place, set())))
    return found


def _held(
    place: str, store: Store, about: dict[str, Any], names: Mapping[str, str], trace: Trace | None, wanted: set[int]
) -> Held:
    rows = store.rows()
    label = class_column(store.keep, rows)
    numbers = torch.full((len(rows),), -1) if label is None else rows[label]
    times = None if trace is None else trace.counts(rows.ids)
    order = rows.ids.argsort() if times is None else torch.argsort(times, descending=True, stable=True)
    classes = numbers.unique(return_counts=True)
    each = max(3, min(SHOWN, 20 * SHOWN // max(1, len(classes[0]))))
    turnover = {} if trace is None else trace.turnover.summary(numbers, rows.ids)
    groups = []
    for number, count in sorted(zip(*(part.tolist() for part in classes), strict=True), key=lambda pair: -pair[1]):
        own = order[numbers[order] == number]
        chosen = own.tolist()[:each]
        chosen += [i for i in own.tolist()[each:] if int(rows.ids[i]) in wanted]
        name = "all rows" if label is None else "background" if number == -1 else named(number, names)
        recalled = None if times is None else float(times[own].double().mean())
        items = list(_items(rows, torch.tensor(chosen), name, times))
        groups.append(Group(name, count, items, min(each, count), turnover.get(str(number)), recalled))
    held = Held(place, about, groups, [], {})
    return held if trace is None else _recalled(held, rows, trace)


def _recalled(held: Held, rows: Rows, trace: Trace) -> Held:
    """With what the trace says, where it is of this memory."""
    times = trace.counts(rows.ids)
    values, counts = times.unique(return_counts=True)
    often = sorted(
        (item for group in held.groups for item in group.items if item.recalled), key=lambda item: -(item.recalled or 0)
    )[:24]
    spread = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return Held(held.place, held.told, held.groups, often, spread)


def _items(rows: Rows, index: Tensor, label: str, times: Tensor | None) -> Iterator[Item]:
    """Some rows, shown."""
    if not len(index):
        return
    columns = [name for name in ("thumbnail", *rows) if name in rows and is_picture(rows[name])]
    pictures = rows[columns[0]][index] if columns else None
    said = [name for name in ("text", *rows) if name in rows and _is_text(rows[name])]
    words = _words(rows[said[0]], index) if said else [""] * len(index)
    for i, row in enumerate(index.tolist()):
        uri = None if pictures is None else data_uri(pictures[i], 64)
        often = None if times is None else int(times[row])
        yield Item(int(rows.ids[row]), label, words[i], uri, often)


def _is_text(values: Tensor) -> bool:
    return values.is_nested and values.dtype == torch.uint8


def _words(values: Tensor, index: Tensor) -> list[str]:
    """Texts of some rows, shortened; empty ones where a column holds no UTF-8."""
    try:
        every = texts(take({"text": values}, index)["text"])
    except UnicodeDecodeError:
        return [""] * len(index)
    return [text if len(text) <= TEXT else f"{text[: TEXT - 1]}…" for text in every]
