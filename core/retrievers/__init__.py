"""Retrievers: what of a memory is recalled."""

from ..selection import ClassBalanced, TopScore, Uniform
from .mixture import Mixture
from .nearest import Nearest
from .prioritized import Prioritized
from .rescored import Rescored

__all__ = ["ClassBalanced", "Mixture", "Nearest", "Prioritized", "Rescored", "TopScore", "Uniform"]
