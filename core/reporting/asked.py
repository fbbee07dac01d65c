"""check_asked: whether a recipe has what it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def check_asked(only: Sequence[str], known: Iterable[str], seeds: int | None = None) -> None:
    """Whether there are these parts of a recipe, and a seed.

    Args:
        only: names that were asked for,
        known: and those that there are.
        seeds: how many; None: as many as the recipe takes by default.

    Raises:
        ValueError: an unknown name, or no seed.

    >>> check_asked(["replay"], ["finetune", "replay"], 3)
    """
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds is {seeds}; expected at least 1")
    names = list(dict.fromkeys(known))
    for name in only:
        if name not in names:
            raise ValueError(f"only is {name!r}; expected one of {', '.join(names)}")
