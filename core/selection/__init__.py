"""Selection: the two protocols behind keeping and recalling, and the selectors that serve on both sides."""

from .balanced import ClassBalanced
from .protocols import Greedy, Keyed, Pool, Ranker, Selection, Selector, rank, top
from .top_score import TopScore
from .uniform import Uniform

__all__ = [
    "ClassBalanced",
    "Greedy",
    "Keyed",
    "Pool",
    "Ranker",
    "Selection",
    "Selector",
    "TopScore",
    "Uniform",
    "rank",
    "top",
]
