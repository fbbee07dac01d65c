"""Heads: from vectors to classes."""

from .anil import ANIL
from .baseline_plus_plus import BaselinePlusPlus
from .discriminant import LinearDiscriminant
from .distribution_calibration import DistributionCalibration
from .fitted import Fits, Fitted
from .in_span import InSpan
from .linear import LinearHead
from .logistic import LogisticRegression, equal_say
from .simplex import simplex
from .trained import TrainedHead

__all__ = [
    "ANIL",
    "BaselinePlusPlus",
    "DistributionCalibration",
    "Fits",
    "Fitted",
    "InSpan",
    "LinearDiscriminant",
    "LinearHead",
    "LogisticRegression",
    "TrainedHead",
    "equal_say",
    "simplex",
]
