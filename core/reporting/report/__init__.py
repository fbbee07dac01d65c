"""The report: one HTML file about runs, which needs no network and no other file."""

from .page import write_report
from .run import Run, read_run

__all__ = ["Run", "read_run", "write_report"]
