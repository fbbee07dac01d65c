"""Cases: predictions on judged rows, kept with the evidence behind them, for people to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .results import replacing

FILE = "evidence.json"
"""Where the cases of a run are, in its folder."""


@dataclass(frozen=True)
class Case:
    """A prediction and what it rests on. Of the rows of the memory there are the numbers only: what a row is, the
    memory tells for as long as it has it.

    Attributes:
        asked: what was asked about, a text or the name of an image.
        picture: a URI of the image, if it is one.
        truth: the class that it has, None where nobody knows.
        label: the class that was predicted.
        probability: of that class.
        evidence: as `Evidence.told` gives it.
    """

    asked: str
    picture: str | None
    truth: str | None
    label: str
    probability: float
    evidence: dict[str, Any]

    @property
    def right(self) -> bool:
        """Whether the prediction is right."""
        return self.truth == self.label


def telling(right: Tensor, sure: Tensor, n: int = 24) -> list[int]:
    """Positions of the rows that tell most about a classifier: up to half of them the surest mistakes, a quarter right
    answers that it was least sure of, and the surest.

    Args:
        right: bool (N,).
        sure: probabilities (N,) of the predicted classes.
        n: how many, at most.

    >>> import torch
    >>> telling(torch.tensor([True, False, True, False]), torch.tensor([0.9, 0.6, 0.5, 0.8]), 4)
    [3, 1, 2, 0]
    """
    order = sure.argsort(stable=True).tolist()
    wrong, good = [i for i in order if not right[i]], [i for i in order if right[i]]
    mistakes = wrong[::-1][: n // 2]
    unsure = good[: n // 4]
    return [*mistakes, *unsure, *good[len(unsure) :][::-1][: n - len(mistakes) - len(unsure)]]


def spread(size: int, n: int) -> list[int]:
    """At most ``n`` positions, evenly over ``size`` rows.

    >>> spread(10, 3), spread(2, 3)
    ([0, 3, 6], [0, 1])
    """
    return [i * size // n for i in range(n)] if size > n else list(range(size))


def save_cases(cases: Sequence[Case], folder: str | Path) -> Path:
    """Writes the cases into the folder of a run."""
    path = Path(folder, FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(json.dumps([asdict(case) for case in cases], indent=1) + "\n", encoding="utf-8")
    return path


def load_cases(folder: str | Path) -> list[Case]:
    """The cases of a run; none where there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(folder, FILE)
    if not path.is_file():
        return []
    try:
        return [Case(**case) for case in json.loads(path.read_text(encoding="utf-8"))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def drop_cases(folder: Path | str) -> None:
    """Removes the cases of a run, where the model that they tell of is no more."""
    Path(folder, FILE).unlink(missing_ok=True)
