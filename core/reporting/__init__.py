"""Reporting: what a run found, as a table to read and a file to compare."""

from .results import Results

__all__ = ["Results"]
