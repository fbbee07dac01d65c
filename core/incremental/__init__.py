"""Classes that arrive in sessions, learned on vectors by several methods."""

from .gaussian_replay import GaussianReplay
from .lent_spread import LentSpread
from .means import Means, ReadoutHead, calibrated
from .method import Head, Method
from .neighbours import Neighbours
from .probabilistic import PredictiveHead, Probabilistic
from .projected import ProjectedReplay
from .random_projection import RandomProjection
from .replay import Replay, classic, der_pp, er, gaussian, none
from .run import learn_sessions
from .solved import Solved
from .streaming import Streaming

__all__ = [
    "GaussianReplay",
    "Head",
    "LentSpread",
    "Means",
    "Method",
    "Neighbours",
    "PredictiveHead",
    "Probabilistic",
    "ProjectedReplay",
    "RandomProjection",
    "ReadoutHead",
    "Replay",
    "Solved",
    "Streaming",
    "calibrated",
    "classic",
    "der_pp",
    "er",
    "gaussian",
    "learn_sessions",
    "none",
]
