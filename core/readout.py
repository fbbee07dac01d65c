"""Readouts: predictions straight from the rows of a memory, for learners without a training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .mixers.prototype import class_means
from .retrievers.nearest import Metric, Nearest

_CHUNK = 1 << 22
"""Similarities held at a time."""


@dataclass(frozen=True)
class Prediction:
    """What a readout says about B rows.

    Attributes:
        labels: int64 (B,), the likeliest class of each row.
        probabilities: (B, C), one column per class.
        classes: int64 (C,), ascending, the class of each column.
    """

    labels: Tensor
    probabilities: Tensor
    classes: Tensor


class Readout(Protocol):
    """A way to predict classes from stored rows."""

    def __call__(self, rows: Mapping[str, Tensor], feature: Tensor) -> Prediction:
        """Classes of ``feature`` (B, D), from rows that hold features (N, D) and labels (N,)."""
        ...


@dataclass(frozen=True)
class NearestClassMean:
    """Softmax over the similarities to the mean of each class: ``softmax_c(s(x, mean_c) / temperature)``
    (Mensink et al., Distance-Based Image Classification, TPAMI 2013; Snell et al., Prototypical Networks for Few-shot
    Learning, NeurIPS 2017).

    Args:
        metric: ``s``: ``"cosine"``, ``"euclidean"`` (minus the squared distance) or ``"dot"``.
        temperature: lower is surer; the labels do not depend on it.
        feature: column of the rows with the features.
        label: column with the classes.

    >>> rows = {"feature": torch.tensor([[0.0], [2.0], [10.0]]), "label": torch.tensor([4, 4, 2])}
    >>> NearestClassMean("euclidean")(rows, torch.tensor([[3.0]])).labels
    tensor([4])
    """

    metric: Literal["cosine", "euclidean", "dot"] = "cosine"
    temperature: float = 1.0
    feature: str = "feature"
    label: str = "label"

    def __post_init__(self) -> None:
        if self.metric not in ("cosine", "euclidean", "dot"):
            raise ValueError(f"metric is {self.metric!r}; expected 'cosine', 'euclidean' or 'dot'")
        _check_positive("temperature", self.temperature)

    def __call__(self, rows: Mapping[str, Tensor], feature: Tensor) -> Prediction:
        features, labels, queries = read_rows(rows, feature, self.feature, self.label)
        classes, means = class_means(features, labels)
        return _predict(similarity(queries, means, self.metric) / self.temperature, classes)


@dataclass(frozen=True)
class KNearest:
    """The ``k`` most similar rows vote for their classes with ``softmax(s / temperature)`` over the k, as in the
    weighted nearest-neighbour classifier of Wu et al. (Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination, CVPR 2018), whose temperature is the default.

    Args:
        k: rows that vote; all of them if there are fewer.
        temperature: lower gives the nearest rows more of the vote; ``inf`` gives all k the same.
        metric: ``s``, as in `Nearest`; distances are negated.
        feature: column of the rows with the features.
        label: column with the classes.

    >>> rows = {"feature": torch.tensor([[0.0], [2.0], [3.0]]), "label": torch.tensor([4, 2, 2])}
    >>> KNearest(2, metric="euclidean")(rows, torch.tensor([[2.4]])).probabilities
    tensor([[1., 0.]])
    """

    k: int = 10
    temperature: float = 0.07
    metric: Metric = "cosine"
    feature: str = "feature"
    label: str = "label"

    def __post_init__(self) -> None:
        _check_positive("temperature", self.temperature)
        if self.k < 1:
            raise ValueError(f"k is {self.k}; expected at least 1 row")

    def __call__(self, rows: Mapping[str, Tensor], feature: Tensor) -> Prediction:
        _, index, votes = self.votes(rows, feature)
        return counted(rows[self.label], index, votes)

    def votes(self, rows: Mapping[str, Tensor], feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Similarity, position and share of the vote of the rows nearest to each of ``feature``, (B, min(k, N)) each,
        the most similar first.
        """
        features, _, queries = read_rows(rows, feature, self.feature, self.label)
        by = Nearest(self.feature, self.metric)
        scores, index = by.search({self.feature: features}, {self.feature: queries}, self.k)
        return scores, index, torch.softmax(scores / self.temperature, dim=1)


@dataclass(frozen=True)
class CalibratedPrototypes:
    """TEEN (Wang et al., Few-Shot Class-Incremental Learning via Training-Free Prototype Calibration, NeurIPS 2023):
    nearest class mean by cosine, after the mean of every novel class has moved towards the base classes it resembles,

        ``p_n <- (1 - shift) * p_n + shift * d_n,   d_n = sum_b softmax_b(sharpness * cos(p_n, p_b)) p_b``

    where means and ``d_n`` have length 1, as in the authors' code.

    Args:
        base: the classes with many rows; every other class is novel.
        shift: how far novel means move, from 0 (not at all) to 1.
        sharpness: how much the most similar base classes dominate.
        temperature: of the probabilities.
        feature: column of the rows with the features.
        label: column with the classes.
    """

    base: Sequence[int]
    shift: float = 0.5
    sharpness: float = 16.0
    temperature: float = 1.0
    feature: str = "feature"
    label: str = "label"

    def __post_init__(self) -> None:
        _check_positive("temperature", self.temperature)
        if not 0.0 <= self.shift <= 1.0:
            raise ValueError(f"shift is {self.shift}; expected a number from 0 to 1")

    def __call__(self, rows: Mapping[str, Tensor], feature: Tensor) -> Prediction:
        features, labels, queries = read_rows(rows, feature, self.feature, self.label)
        classes, means = class_means(features, labels)
        means = F.normalize(means, dim=1)
        is_base = torch.isin(classes, torch.tensor(list(self.base), device=classes.device))
        if not is_base.any():
            raise ValueError(f"base is {list(self.base)}; none of them is among the classes held, {classes.tolist()}")
        base, novel = means[is_base], means[~is_base]
        drift = F.normalize(torch.softmax(self.sharpness * novel @ base.T, dim=1) @ base, dim=1)
        means[~is_base] = torch.lerp(novel, drift, self.shift)
        return _predict(similarity(queries, means, "cosine") / self.temperature, classes)


@dataclass(frozen=True)
class CacheReadout:
    """The cache model of Tip-Adapter, without training (Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for
    Few-shot Classification, ECCV 2022): every row adds to the logit of its class,

        ``logit_c = alpha * sum over rows of class c of exp(-beta * (1 - cos(x, row)))``

    The paper adds the logits of a zero-shot classifier: ``(prediction.probabilities.log() + zero_shot).softmax(1)``.

    Args:
        beta: how sharply a row's influence falls with distance.
        alpha: weight of the cache.
        feature: column of the rows with the features.
        label: column with the classes.
    """

    beta: float = 5.5
    alpha: float = 1.0
    feature: str = "feature"
    label: str = "label"

    def __post_init__(self) -> None:
        _check_positive("beta", self.beta)
        _check_positive("alpha", self.alpha)

    def __call__(self, rows: Mapping[str, Tensor], feature: Tensor) -> Prediction:
        features, labels, queries = read_rows(rows, feature, self.feature, self.label)
        classes, group = torch.unique(labels, return_inverse=True)
        parts = []
        for part in queries.split(max(1, _CHUNK // len(features))):
            affinity = torch.exp(self.beta * (similarity(part, features, "cosine") - 1))
            parts.append(affinity.new_zeros(len(part), len(classes)).index_add_(1, group, affinity))
        return _predict(self.alpha * torch.cat(parts), classes)


def counted(labels: Tensor, index: Tensor, votes: Tensor) -> Prediction:
    """What comes of the votes (B, k) of rows at positions ``index`` (B, k), for their classes among ``labels`` (N,)."""
    classes, group = torch.unique(labels.to(index.device), return_inverse=True)
    return _prediction(votes.new_zeros(len(votes), len(classes)).scatter_add_(1, group[index], votes), classes)


def similarity(x: Tensor, y: Tensor, metric: str) -> Tensor:
    """Similarity of every row of ``x`` (B, D) to every row of ``y`` (N, D), (B, N), higher is closer.

    >>> similarity(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]]), "euclidean")
    tensor([[ -4., -25.]])
    """
    if metric == "cosine":
        return F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
    if metric == "dot":
        return x @ y.T
    return -torch.cdist(x, y).square()


def read_rows(
    rows: Mapping[str, Tensor], feature: Tensor, feature_column: str, label_column: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Features and labels of the rows, and the queries in the same dtype and place."""
    for column in (feature_column, label_column):
        if column not in rows:
            raise ValueError(f"rows has no column {column!r}; it has {sorted(rows)}")
    features = rows[feature_column].flatten(1)
    if feature.dim() != 2 or feature.shape[1] != features.shape[1]:
        raise ValueError(f"feature has shape {tuple(feature.shape)}; expected (B, {features.shape[1]}) as in the rows")
    if len(features) == 0:
        raise ValueError("rows is empty; expected rows to predict from")
    dtype = torch.float64 if feature.dtype == torch.float64 else torch.float32
    labels = rows[label_column].to(feature.device)
    return features.to(feature.device, dtype), labels, feature.detach().to(dtype)


def _predict(logits: Tensor, classes: Tensor) -> Prediction:
    return _prediction(torch.softmax(logits, dim=1), classes)


def _prediction(probabilities: Tensor, classes: Tensor) -> Prediction:
    return Prediction(classes[probabilities.argmax(1)], probabilities, classes)


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; expected a number above 0")
