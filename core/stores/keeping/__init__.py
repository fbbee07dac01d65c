"""Keeping: which rows of a stream stay in a store."""

from ...selection import ClassBalanced, TopScore
from .challenging import Challenging
from .diverse_reservoir import DiverseReservoir
from .fifo import Fifo
from .gradient_diversity import GradientDiversity, StoredGradientDiversity
from .herding import Herding
from .jumping import Jumping
from .k_center import KCenter
from .reservoir import Reservoir
from .weighted_reservoir import WeightedReservoir

__all__ = [
    "Challenging",
    "ClassBalanced",
    "DiverseReservoir",
    "Fifo",
    "GradientDiversity",
    "Herding",
    "Jumping",
    "KCenter",
    "Reservoir",
    "StoredGradientDiversity",
    "TopScore",
    "WeightedReservoir",
]
