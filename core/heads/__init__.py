"""Heads: from vectors to classes."""

from .discriminant import LinearDiscriminant
from .linear import LinearHead
from .logistic import LogisticRegression
from .trained import TrainedHead

__all__ = ["LinearDiscriminant", "LinearHead", "LogisticRegression", "TrainedHead"]
