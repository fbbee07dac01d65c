"""The cells of the Split-MNIST table: settings, and what was published for them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """A cell of the table.

    Attributes:
        method: a published method, ``"joint"`` training, or ``"ours"``.
        buffer: rows in the memory; 0 without one.
        published: accuracy in the paper's table, percent; None if it has no such row.
        lr: learning rate.
        replay: rows per draw.
        alpha: weight of the logits.
        beta: weight of the labels.
        batch_size: new rows per step.
        average: share that the moving average of the weights, which is read out, keeps in a step; the learning rate
            then falls to 0 over the last fifth of each task. 0: neither.
        jitter: how far recalled images are turned (degrees), moved (share of the width) and scaled, at most; in joint
            training all images are.
        bend: how far recalled images are bent: standard deviation of the shift of a pixel, as a share of the width.
        choices: rows of a class that one is chosen from to leave the memory, see `DiverseReservoir`; 0: a reservoir.
    """

    method: str
    buffer: int
    published: float | None
    lr: float
    replay: int = 0
    alpha: float = 0.0
    beta: float = 1.0
    batch_size: int = 10
    average: float = 0.0
    jitter: tuple[float, float, float] | None = None
    bend: float = 0.0
    choices: int = 0

    @property
    def name(self) -> str:
        """As in ``--only``."""
        return f"{self.row}-{self.buffer}" if self.buffer else self.row

    @property
    def row(self) -> str:
        """The method with what was added to it."""
        added = "+average" if self.average and self.method != "ours" else ""
        return f"{self.method}{added}{'+jitter' if self.jitter else ''}"


TABLE = (
    Setting("sgd", 0, 19.60, 0.03),
    Setting("joint", 0, 95.57, 0.03),
    Setting("classic", 200, None, 0.01, 10),
    Setting("classic", 500, None, 0.01, 10),
    Setting("classic", 5120, None, 0.01, 10),
    Setting("er", 200, 80.43, 0.01, 10),
    Setting("er", 500, 86.12, 0.1, 10),
    Setting("er", 5120, 93.40, 0.1, 10),
    Setting("er-ace", 200, None, 0.1, 10),
    Setting("er-ace", 500, None, 0.1, 10),
    Setting("er-ace", 5120, None, 0.1, 10),
    Setting("der", 200, 84.55, 0.03, 10, 0.2),
    Setting("der", 500, 90.54, 0.03, 128, 1.0),
    Setting("der", 5120, 94.90, 0.1, 128, 0.5),
    Setting("der++", 200, 85.61, 0.03, 128, 0.2, 1.0),
    Setting("der++", 500, 91.00, 0.03, 10, 1.0, 0.5),
    Setting("der++", 5120, 95.30, 0.1, 64, 0.2, 0.5),
    Setting("a-gem", 200, 45.72, 0.1, 128),
    Setting("a-gem", 500, 46.66, 0.1, 128),
    Setting("a-gem", 5120, 54.24, 0.1, 128),
    Setting("gss", 200, 38.90, 0.1, 10, batch_size=128),
    Setting("gss", 500, 49.76, 0.1, 10, batch_size=128),
    Setting("gss", 5120, 89.39, 0.1, 128, batch_size=128),
    Setting("mir", 200, None, 0.1, 10),
    Setting("mir", 500, None, 0.1, 10),
    Setting("mir", 5120, None, 0.1, 10),
    Setting("icarl", 200, 70.51, 0.1),
    Setting("icarl", 500, 70.10, 0.1),
    Setting("icarl", 5120, 70.60, 0.1),
    Setting("gdumb", 200, None, 0.05, batch_size=16),
    Setting("gdumb", 500, None, 0.05, batch_size=16),
    Setting("gdumb", 5120, None, 0.05, batch_size=16),
    Setting("ours", 200, None, 0.05, 64, 0.5, average=0.999),
    Setting("ours", 500, None, 0.1, 64, 0.5, average=0.998, choices=1000),
    Setting("ours", 5120, None, 0.1, 64, 0.5, average=0.998),
    Setting("ours", 200, None, 0.06, 64, 5 / 3, 10 / 3, average=0.998, jitter=(15, 0.1, 0.15), bend=0.04),
    Setting("ours", 500, None, 0.07, 128, 5 / 3, 10 / 3, average=0.998, jitter=(10, 0.07, 0.1), bend=0.04),
    Setting("ours", 5120, None, 0.07, 128, 5 / 3, 10 / 3, average=0.998, jitter=(10, 0.07, 0.1), bend=0.04),
    Setting("er", 200, None, 0.1, 64, average=0.998),
    Setting("er", 500, None, 0.1, 64, average=0.998),
    Setting("der++", 200, None, 0.05, 64, 0.5, average=0.999),
    Setting("der++", 500, None, 0.1, 64, 0.5, average=0.998),
    Setting("joint", 0, None, 0.1, average=0.998),
    Setting("er", 200, None, 0.1, 64, average=0.998, jitter=(15, 0.1, 0.15), bend=0.04),
    Setting("er", 500, None, 0.1, 128, average=0.998, jitter=(10, 0.07, 0.1), bend=0.04),
    Setting("der++", 200, None, 0.06, 64, 5 / 3, 10 / 3, average=0.998, jitter=(15, 0.1, 0.15), bend=0.04),
    Setting("der++", 500, None, 0.07, 69, 5 / 3, 10 / 3, average=0.998, jitter=(10, 0.07, 0.1), bend=0.04),
    Setting("joint", 0, None, 0.1, average=0.998, jitter=(10, 0.07, 0.1), bend=0.04),
)
