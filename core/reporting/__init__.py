"""Reporting: what a run found, why a prediction was made, what was recalled and kept, what a memory holds."""

from .code_digest import code_digest
from .evidence import Evidence, explain
from .results import Results
from .shapley import KNNShapley
from .staleness import Drift, Staleness, staleness
from .trace import Recalls, Trace
from .turnover import Kept, Turnover

__all__ = [
    "Drift",
    "Evidence",
    "KNNShapley",
    "Kept",
    "Recalls",
    "Results",
    "Staleness",
    "Trace",
    "Turnover",
    "code_digest",
    "explain",
    "staleness",
]
