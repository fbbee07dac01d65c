"""Term: one named part of a loss; terms add up with ``+`` and are weighted with ``*``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Protocol, TypeGuard

from torch import Tensor, nn

from .schedule import Schedule
from .view import View


class Term(Protocol):
    """Any callable of this shape is a term; those that derive from `Composable` can be added and weighted."""

    def __call__(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        """Named scalars whose sum is the loss. A term that reads a draw not in ``old`` contributes nothing: ``{}``."""
        ...


class Composable:
    """Base of the terms in this package: arithmetic, and what is known of a term before it is evaluated."""

    def __call__(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        """Named scalars, see `Term`."""
        raise TypeError(f"{type(self).__name__} must override __call__")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scalars it returns when every draw is there."""
        return ()

    @property
    def reads(self) -> frozenset[str]:
        """Names of the draws it asks for."""
        return frozenset()

    def at(self, step: int) -> Term:
        """The term with every schedule replaced by its number at ``step``; itself where there is none."""
        return self

    def __add__(self, other: Term) -> Sum:
        return Sum((self, other)) if _is_term(other) else NotImplemented

    def __radd__(self, other: Term | int) -> Term:
        if other == 0:  # where the built-in sum() starts
            return self
        return Sum((other, self)) if _is_term(other) else NotImplemented

    def __mul__(self, weight: float | Schedule) -> Scaled:
        return Scaled(weight, self) if _is_weight(weight) else NotImplemented

    __rmul__ = __mul__


@dataclass(frozen=True)
class Sum(Composable):
    """The scalars of several terms side by side. Usually written ``a + b``.

    Raises:
        ValueError: two terms have the same name.
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        parts = (part for term in self.terms for part in (term.terms if isinstance(term, Sum) else (term,)))
        object.__setattr__(self, "terms", tuple(parts))
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise ValueError(_twice(name))

    def __call__(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for term in self.terms:
            for name, value in term(new, old).items():
                if name in total:
                    raise ValueError(_twice(name))
                total[name] = value
        return total

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for term in self.terms for name in getattr(term, "names", ()))

    @property
    def reads(self) -> frozenset[str]:
        return frozenset().union(*(getattr(term, "reads", ()) for term in self.terms))

    def at(self, step: int) -> Term:
        terms = tuple(at_step(term, step) for term in self.terms)
        return self if all(a is b for a, b in zip(terms, self.terms, strict=True)) else Sum(terms)


@dataclass(frozen=True)
class Scaled(Composable):
    """A term times a number, or times a schedule. Usually written ``0.5 * a``.

    Raises:
        ValueError: ``weight`` is not finite.
    """

    weight: float | Schedule
    term: Term

    def __post_init__(self) -> None:
        if not _is_weight(self.weight):
            raise TypeError(f"weight is {self.weight!r}; expected a number or a schedule with value(step)")
        if isinstance(self.weight, int | float) and not math.isfinite(self.weight):
            raise ValueError(f"weight is {self.weight}; expected a finite number")

    def __call__(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        weight = self.weight
        if not isinstance(weight, int | float):
            raise TypeError(f"the weight {weight!r} depends on the step; evaluate term.at(step) instead")
        return {name: weight * value for name, value in self.term(new, old).items()}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(getattr(self.term, "names", ()))

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(getattr(self.term, "reads", ()))

    def at(self, step: int) -> Term:
        weight = self.weight if isinstance(self.weight, int | float) else self.weight.value(step)
        term = at_step(self.term, step)
        return self if weight is self.weight and term is self.term else Scaled(weight, term)


@dataclass(frozen=True)
class RowTerm(Composable):
    """Base of the terms that look at one set of rows: override `loss`, and give ``name`` a default.

    Args:
        draw: the draw whose rows it reads; None: the new rows.
        name: what its scalar is called in reports; unique within a sum.
    """

    _: KW_ONLY
    draw: str | None = None
    name: str = "loss"

    def loss(self, view: View) -> Tensor:
        """The scalar, over the rows of ``view``."""
        raise TypeError(f"{type(self).__name__} must override loss")

    def __call__(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        view = new if self.draw is None else old.get(self.draw)
        return {} if view is None else {self.name: self.loss(view)}

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset() if self.draw is None else frozenset({self.draw})


def at_step(term: Term, step: int) -> Term:
    """``term`` with every schedule replaced by its number at ``step``; a term of another kind as it is."""
    return term.at(step) if isinstance(term, Composable) else term


def learnable(term: Term) -> Iterator[nn.Module]:
    """The terms within ``term`` that have parameters, for the optimizer and for checkpoints."""
    if isinstance(term, nn.Module):
        yield term
    elif isinstance(term, Sum):
        for part in term.terms:
            yield from learnable(part)
    elif hasattr(term, "term"):  # one around another, such as `Scaled`
        yield from learnable(term.term)


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of ``losses`` (B, ...), each row counted ``weights`` (B,) times: ``sum(w * l) / sum(w)``.

    >>> import torch
    >>> weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0]))
    tensor(2.)
    """
    if weights is None:
        return losses.mean()
    per_row = losses.flatten(1).mean(1) if losses.dim() > 1 else losses
    weights = weights.to(per_row.dtype)
    return (per_row * weights).sum() / weights.sum()


def _is_term(term: object) -> TypeGuard[Term]:
    return callable(term) and not isinstance(term, type)


def _is_weight(weight: object) -> bool:
    return isinstance(weight, int | float) or callable(getattr(weight, "value", None))


def _twice(name: str) -> str:
    return f"two terms are named {name!r}; give one of them another name, as in ReplayCrossEntropy(name=...)"
