"""Sessions: a stream in which new classes arrive, all rows or a few shots of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor

from .labels import Integers, as_integers, check_shots, rows_by_class
from .seeding import generator_at


@dataclass(frozen=True, eq=False)
class Session:
    """One step of a class-incremental stream.

    Attributes:
        number: 0 is the base session.
        classes: int64 (way,), the classes that are new.
        seen: int64, all classes so far, in the order they came.
        train: int64 (n,), row numbers to learn from, grouped by class in the order of ``classes``.
    """

    number: int
    classes: Tensor
    seen: Tensor
    train: Tensor

    def test(self, labels: Integers, *, new: bool = False) -> Tensor:
        """Rows of a test set to be judged on after this session: those of all classes seen, or of the new ones only.

        Args:
            labels: the class of every row of the test set, (N,).
            new: only the classes that came with this session.

        >>> Sessions([0, 0, 1, 1, 2, 2], base=1, way=1, shot=1)[1].test([2, 1, 0])
        tensor([1, 2])
        """
        return torch.isin(as_integers(labels, "labels"), self.classes if new else self.seen).nonzero().squeeze(1)


class Sessions(Sequence[Session]):
    """Class-incremental sessions: base classes first, then ``way`` new classes at a time.

    With ``shot`` it is few-shot class-incremental learning (Tao et al. 2020, "Few-Shot Class-Incremental Learning";
    protocol of Zhang et al. 2021, CEC); with ``shot=None`` it is plain class-incremental learning, for instance
    Split-MNIST as ``Sessions(labels, base=2, way=2, shot=None)``. The shots of a class depend on ``seed`` and the
    class only, and fewer shots are the first of more: 1-, 5- and 10-shot streams of one seed are nested.

    Args:
        labels: the class of every row of the training set, (N,).
        base: how many classes the base session has, or which.
        way: new classes per later session.
        shot: rows of each new class; None = all.
        sessions: how many sessions after the base; None = until no class is left.
        class_order: None = ascending, ``"shuffled"`` = by the seed, or the classes one by one (others take no part).
            Where ``base`` lists classes, these come first.
        base_shot: rows of each base class; None = all.
        seed: the seed of the order and of the shots.

    Raises:
        ValueError: an unknown or repeated class, too few classes, classes left over that ``way`` does not divide, or
            a class with fewer rows than shots.

    >>> sessions = Sessions([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3], base=2, way=1, shot=2)
    >>> [(session.classes.tolist(), len(session.train)) for session in sessions]
    [([0, 1], 6), ([2], 2), ([3], 2)]
    >>> sessions[1].seen.tolist()
    [0, 1, 2]
    """

    def __init__(
        self,
        labels: Integers,
        base: int | Iterable[int],
        way: int,
        shot: int | None = 5,
        sessions: int | None = None,
        class_order: Literal["shuffled"] | Iterable[int] | None = None,
        *,
        base_shot: int | None = None,
        seed: int = 0,
    ) -> None:
        for name, value in (("way", way), ("shot", shot), ("base_shot", base_shot)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        rows = rows_by_class(labels)
        first = [] if isinstance(base, int) else _known(base, "base", rows)
        order = first + [name for name in _order(class_order, rows, seed) if name not in set(first)]
        n_base = base if isinstance(base, int) else len(first)
        groups = _split(order, n_base, way, sessions)
        self._sessions = _chain(
            (group, torch.cat([_shots(rows[name], shot if number else base_shot, name, seed) for name in group]))
            for number, group in enumerate(groups)
        )

    @classmethod
    def given(cls, labels: Integers, indices: Sequence[Integers], shot: int | None = None) -> Sessions:
        """Sessions whose training rows are listed, such as the published lists of CEC.

        Args:
            labels: the class of every row of the training set, (N,).
            indices: row numbers of each session, the base first; a session's classes are those of its rows, ascending.
            shot: audit that every session after the base has exactly so many rows of each of its classes.

        Raises:
            ValueError: an empty list, a row that does not exist or repeats, a class that comes twice, or a class with
                another number of rows than ``shot``.

        >>> [session.classes.tolist() for session in Sessions.given([0, 0, 1, 1], [[0, 1], [3]], shot=1)]
        [[0], [1]]
        """
        classes = as_integers(labels, "labels")
        steps = []
        came: dict[int, int] = {}
        for number, listed in enumerate(indices):
            name = f"indices[{number}]"
            rows = as_integers(listed, name)
            if not len(rows):
                raise ValueError(f"{name} is empty; expected the rows of a session")
            low, high = int(rows.min()), int(rows.max())
            if low < 0 or high >= len(classes):
                raise ValueError(f"{name} has rows {low} to {high}; expected rows 0 to {len(classes) - 1}")
            if len(torch.unique(rows)) != len(rows):
                raise ValueError(f"{name} repeats a row; expected distinct rows")
            drawn = classes[rows]
            group = torch.unique(drawn).tolist()
            for label in group:
                if came.setdefault(label, number) != number:
                    raise ValueError(f"{name} has rows of class {label}, which came in session {came[label]}")
            if shot is not None and number:
                check_shots(classes, rows, group, shot)
            steps.append((group, rows[torch.sort(drawn, stable=True).indices]))
        if not steps:
            raise ValueError("indices is empty; expected one list of rows per session")
        made = cls.__new__(cls)
        made._sessions = _chain(steps)
        return made

    @property
    def class_order(self) -> Tensor:
        """int64 (C,), all classes in the order they come."""
        return self._sessions[-1].seen

    @property
    def digest(self) -> str:
        """SHA-256 over the class order and the training rows of each session: equal if and only if the stream is."""
        content = hashlib.sha256()
        for session in self._sessions:
            for part in (session.classes, session.train):
                content.update(len(part).to_bytes(8, "little"))
                content.update(part.numpy().astype("<i8").tobytes())
        return content.hexdigest()

    def relabel(self, labels: Integers) -> Tensor:
        """``labels`` (N,) as places in `class_order`, int64 (N,): a head's first columns are then the classes seen.

        Raises:
            ValueError: a class that no session has.

        >>> Sessions([5, 5, 9, 9], base=[9], way=1, shot=1).relabel([5, 9])
        tensor([1, 0])
        """
        values = as_integers(labels, "labels")
        sorted_classes, places = torch.sort(self.class_order)
        position = torch.searchsorted(sorted_classes, values).clamp(max=len(places) - 1)
        unknown = values[sorted_classes[position] != values]
        if len(unknown):
            known = sorted_classes.tolist()
            raise ValueError(f"labels has class {int(unknown[0])}; the sessions have only {known}")
        return places[position]

    def __len__(self) -> int:
        return len(self._sessions)

    @overload
    def __getitem__(self, number: int) -> Session: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Session]: ...
    def __getitem__(self, number: int | slice) -> Session | Sequence[Session]:
        return self._sessions[number]

    def __repr__(self) -> str:
        parts = " + ".join(f"{len(session.classes)}/{len(session.train)}" for session in self._sessions)
        return f"Sessions({len(self)} sessions, classes/rows: {parts}, sha256 {self.digest[:12]})"


def _order(class_order: str | Iterable[int] | None, rows: dict[int, Tensor], seed: int) -> list[int]:
    if class_order is None:
        return list(rows)
    if not isinstance(class_order, str):
        return _known(class_order, "class_order", rows)
    if class_order != "shuffled":
        raise ValueError(f"class_order is {class_order!r}; expected None, 'shuffled' or the classes one by one")
    classes = list(rows)
    return [classes[i] for i in torch.randperm(len(classes), generator=generator_at(seed, "order")).tolist()]


def _known(classes: Iterable[int], name: str, rows: dict[int, Tensor]) -> list[int]:
    listed = [int(label) for label in classes]
    unknown = sorted(set(listed) - set(rows))
    if unknown:
        raise ValueError(f"{name} has {unknown}; the labels have only {list(rows)}")
    if len(set(listed)) != len(listed):
        raise ValueError(f"{name} repeats a class: {listed}; expected each class once")
    return listed


def _split(order: list[int], base: int, way: int, sessions: int | None) -> list[list[int]]:
    left = len(order) - base
    if base < 1 or left < 0:
        raise ValueError(f"base is {base} classes; expected 1 to {len(order)}")
    if sessions is None:
        if left % way:
            raise ValueError(f"way is {way}, which does not divide the {left} classes after the base; give sessions=")
        sessions = left // way
    if sessions < 0 or sessions * way > left:
        raise ValueError(f"sessions is {sessions} of {way} classes each, but {left} classes are left after the base")
    ends = [base + way * number for number in range(sessions + 1)]
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _shots(rows: Tensor, shot: int | None, label: int, seed: int) -> Tensor:
    if shot is None:
        return rows
    if len(rows) < shot:
        raise ValueError(f"class {label} has {len(rows)} rows; expected at least {shot} shots")
    return rows[torch.randperm(len(rows), generator=generator_at(seed, "shots", label))[:shot]]


def _chain(steps: Iterable[tuple[list[int], Tensor]]) -> list[Session]:
    chained: list[Session] = []
    seen: list[int] = []
    for number, (classes, train) in enumerate(steps):
        seen = seen + classes
        chained.append(Session(number, torch.tensor(classes), torch.tensor(seen), train))
    return chained
