"""Classes that arrive in sessions, learned on vectors by several methods."""

from .gaussian_replay import GaussianReplay
from .method import Method
from .replay import Replay, classic, der_pp, er, none
from .run import learn_sessions
from .solved import Solved
from .streaming import Streaming

__all__ = [
    "GaussianReplay",
    "Method",
    "Replay",
    "Solved",
    "Streaming",
    "classic",
    "der_pp",
    "er",
    "learn_sessions",
    "none",
]
