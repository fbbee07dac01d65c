"""Stores: where experience lives, and what is kept."""

from .calibration import Calibrated, tukey
from .columns import BFloat16, ColumnKind, Growable, Half, Plain, Quantized
from .dataset import StoreDataset
from .gaussian import GaussianStore
from .ragged import Ragged
from .rows import Rows
from .store import Store

__all__ = [
    "BFloat16",
    "Calibrated",
    "ColumnKind",
    "GaussianStore",
    "Growable",
    "Half",
    "Plain",
    "Quantized",
    "Ragged",
    "Rows",
    "Store",
    "StoreDataset",
    "tukey",
]
