"""check: whether a recipe can do what it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def check(seeds: int, only: Sequence[str], known: Iterable[str]) -> None:
    """Whether there are these names, and a seed.

    Args:
        seeds: how many.
        only: names that were asked for,
        known: and those that there are.

    Raises:
        ValueError: an unknown name, or no seed.

    >>> check(3, ["replay"], ["finetune", "replay"])
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; expected at least 1")
    known = list(known)
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ValueError(f"only is {unknown[0]!r}; expected some of {', '.join(known)}")
