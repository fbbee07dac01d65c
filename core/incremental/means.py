"""Means: classes told apart by their means alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..batch import Batch, concat
from ..mixers.prototype import class_means
from ..readout import CalibratedPrototypes, NearestClassMean, Readout


@dataclass
class Means:
    """The mean of every class is kept, and a readout predicts from these: `NearestClassMean` by cosine, or with
    `calibrated` TEEN. Nothing is trained.

    Args:
        readout: makes the readout from the classes of the first session.

    >>> import torch
    >>> method = Means()
    >>> method.learn({"feature": torch.eye(2), "label": torch.arange(2)}, None, 2)
    >>> method.head(torch.tensor([[0.1, 0.9]])).argmax(1)
    tensor([1])
    """

    readout: Callable[[Sequence[int]], Readout] = lambda base: NearestClassMean()
    head: ReadoutHead | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.base: tuple[int, ...] = ()
        self.rows: Batch = {}

    def learn(self, rows: Batch, named: Tensor | None, classes: int) -> None:
        """See `Method`; what is known of the classes beforehand is not used."""
        label, feature = class_means(rows["feature"], rows["label"])
        means = {"feature": feature, "label": label}
        if not self.rows:
            self.base, self.rows = tuple(range(classes)), means
        else:
            self.rows = concat([self.rows, means])
        self.head = ReadoutHead(self.readout(self.base), self.rows, classes)

    @property
    def nbytes(self) -> int:
        """Bytes of the means."""
        return sum(values.nbytes for values in self.rows.values())


@dataclass(frozen=True)
class ReadoutHead:
    """A readout over rows as a head: from vectors (B, D) to probabilities (B, classes).

    Args:
        readout: how rows become predictions.
        rows: ``feature`` (N, D) and ``label`` (N,), below ``classes``.
        classes: so many, of which some may have no row.
    """

    readout: Readout
    rows: Batch
    classes: int

    def __call__(self, feature: Tensor) -> Tensor:
        said = self.readout(self.rows, feature)
        found = said.probabilities.new_zeros(len(feature), self.classes)
        found[:, said.classes] = said.probabilities
        return found


def calibrated(shift: float = 0.5, sharpness: float = 16.0) -> Means:
    """TEEN, see `CalibratedPrototypes`: the means of later classes move towards those of the first ones."""
    return Means(lambda base: CalibratedPrototypes(base, shift, sharpness))
