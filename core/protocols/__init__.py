"""Protocols: which rows are learned from when, and how the outcome is measured."""

from .episodes import Episode, EpisodeBatches, Episodes, episode_accuracies
from .intervals import Interval, mean_interval, paired_interval
from .labels import check_shots
from .metrics import (
    AccuracyMatrix,
    BaseNovel,
    accuracy,
    accuracy_by_group,
    base_novel,
    harmonic_mean,
    per_class_accuracy,
)
from .sessions import Session, Sessions

__all__ = [
    "AccuracyMatrix",
    "BaseNovel",
    "Episode",
    "EpisodeBatches",
    "Episodes",
    "Interval",
    "Session",
    "Sessions",
    "accuracy",
    "accuracy_by_group",
    "base_novel",
    "check_shots",
    "episode_accuracies",
    "harmonic_mean",
    "mean_interval",
    "paired_interval",
    "per_class_accuracy",
]
