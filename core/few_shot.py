"""Few-shot methods on vectors, by name, each with the settings that validation episodes choose from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import Batch
from .centring import Centring
from .heads import BaselinePlusPlus, DistributionCalibration, Fitted, InSpan, LogisticRegression
from .protocols.episodes import Episode, episode_accuracies
from .readout import CacheReadout, KNearest, NearestClassMean, Readout
from .stores import GaussianStore
from .stores.calibration import tukey
from .transformed import Transformed

WITHOUT_BASE = ("ncm", "logistic", "cache", "knn", "baseline++")
"""Methods that need the shots alone."""

METHODS = (*WITHOUT_BASE, "cl2n", "calibration")
"""All methods; the last two recall the base classes."""


def candidates(name: str, base: Batch | None = None) -> dict[str, Readout]:
    """The readouts of a method by what is set, the usual setting first.

    - ``ncm``: nearest class mean by cosine (`NearestClassMean`).
    - ``cl2n``: SimpleShot, nearest class mean of centred vectors of length 1 (`Centring`).
    - ``knn``: nearest neighbours (`KNearest`).
    - ``logistic``: logistic regression on the shots, of length 1 (`LogisticRegression`).
    - ``cache``: the key-value cache of Tip-Adapter, without its zero-shot classifier (`CacheReadout`).
    - ``baseline++``: a cosine head trained on the shots (`BaselinePlusPlus`).
    - ``calibration``: a head trained on what is drawn from recalled base statistics (`DistributionCalibration`), in the
      64 directions in which base vectors, after `tukey` where none is negative, vary most.

    Args:
        name: of the method.
        base: ``feature`` (N, D) and ``label`` (N,) of base classes, for the methods that recall them.

    Raises:
        ValueError: no such method, or one that needs a base where there is none.
    """
    if name not in METHODS:
        raise ValueError(f"methods is {name!r}; expected one of {', '.join(METHODS)}")
    if name not in WITHOUT_BASE and (base is None or not len(base["label"])):
        raise ValueError(f"methods is {name!r}, which recalls base classes; expected data that has some")
    if name == "ncm":
        return {"cosine": NearestClassMean(), "euclidean": NearestClassMean("euclidean")}
    if name == "logistic":
        fits = {f"C={c:g}": Fitted(InSpan(LogisticRegression(c, tolerance=1e-5))) for c in (10.0, 1.0, 100.0)}
        return {setting: Transformed(_unit, fitted) for setting, fitted in fits.items()}
    if name == "cache":
        return {f"beta={beta:g}": CacheReadout(beta) for beta in (5.5, 1.0, 20.0)}
    if name == "knn":
        return {f"k={k}": KNearest(k) for k in (5, 1, 3)}
    if name == "baseline++":
        return {f"lr={lr:g}": Fitted(BaselinePlusPlus(lr=lr)) for lr in (0.01, 0.1, 1.0)}
    assert base is not None
    if name == "cl2n":
        return {"euclidean": Transformed(Centring.of(base["feature"]), NearestClassMean("euclidean"))}
    return _calibrations(base)


def _calibrations(base: Mapping[str, Tensor], directions: int = 64) -> dict[str, Readout]:
    power = bool((base["feature"] >= 0).all())
    feature = tukey(base["feature"]) if power else base["feature"]
    covariance = torch.cov(feature.double().T)
    axes = torch.linalg.eigh(covariance).eigenvectors[:, -directions:]
    # one number for all, so that alpha and C mean the same whatever made the vectors
    axes = (axes / covariance.trace().sqrt()).to(feature)

    def turned(vectors: Tensor) -> Tensor:
        seen = tukey(vectors.clamp(min=0)) if power else vectors
        near: Tensor = seen @ axes
        return near

    memory = GaussianStore(covariance="full", shrinkage=0.1)
    memory.add({"feature": feature @ axes, "label": base["label"]})
    found: dict[str, Readout] = {}
    for k, alpha in ((2, 0.0), (1, 0.0), (2, 0.01), (5, 0.0)):
        how = DistributionCalibration(memory, k, alpha, how=LogisticRegression(1.0, tolerance=1e-4))
        found[f"k={k}, alpha={alpha:g}"] = Transformed(turned, Fitted(how))
    return found


def memory_bytes(readout: Readout) -> int:
    """Bytes of the base statistics that a readout of `candidates` recalls from; 0 where it recalls none."""
    inner = readout.readout if isinstance(readout, Transformed) else readout
    how = inner.how if isinstance(inner, Fitted) else None
    return how.memory.nbytes if isinstance(how, DistributionCalibration) else 0


def choose(options: Mapping[str, Readout], feature: Tensor, episodes: Sequence[Episode] | Iterable[Episode]) -> str:
    """The setting that is best on average over episodes of validation classes; the first of equals.

    >>> from memreplay.core.protocols.episodes import Episodes
    >>> feature = torch.tensor([[1.0, 0.0], [9.0, 0.5], [0.0, 1.0], [0.5, 9.0]])
    >>> choose(candidates("ncm"), feature, Episodes([0, 0, 1, 1], way=2, shot=1, query=1, episodes=2))
    'cosine'
    """
    if len(options) == 1:
        return next(iter(options))
    drawn = list(episodes)
    scores = {name: sum(episode_accuracies(readout, feature, drawn)) for name, readout in options.items()}
    return max(scores, key=lambda name: scores[name])


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=1)
