"""Reporting: what a run found, why a prediction was made, what was recalled and kept, what a memory holds."""

from .evidence import Evidence, explain
from .results import Results
from .shapley import KNNShapley

__all__ = ["Evidence", "KNNShapley", "Results", "explain"]
