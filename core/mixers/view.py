"""View: rows together with what the model says about them, and the one forward that makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from ..batch import batch_size, concat, to_device

if TYPE_CHECKING:
    from ..stores.rows import Rows

Forward: TypeAlias = Callable[[Any, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""``forward(model, batch)``: the outputs by name, each with one row per row of the batch."""


@dataclass(frozen=True, slots=True)
class View:
    """Rows and the model's outputs for them, row by row; what a `Term` reads.

    Attributes:
        rows: the columns, as a dict or as the `Rows` that a memory recalled.
        outputs: the model's outputs, such as ``{"logits": (B, C)}``.

    >>> view = View({"label": torch.tensor([1])}, {"logits": torch.zeros(1, 2)})
    >>> view.column("label"), view.output("logits").shape
    (tensor([1]), torch.Size([1, 2]))
    """

    rows: Mapping[str, Tensor] | Rows
    outputs: Mapping[str, Tensor]

    @property
    def weights(self) -> Tensor | None:
        """Importance weights of the rows (B,), or None where every row counts the same."""
        return getattr(self.rows, "weights", None)

    def column(self, name: str) -> Tensor:
        """``rows[name]``; a KeyError that lists the columns where there is none."""
        try:
            return self.rows[name]
        except KeyError:
            raise KeyError(f"column {name!r} is missing; the rows have {sorted(self.rows.keys())}") from None

    def output(self, name: str) -> Tensor:
        """``outputs[name]``; a KeyError that lists the outputs where there is none."""
        try:
            return self.outputs[name]
        except KeyError:
            raise KeyError(f"output {name!r} is missing; the model gave {sorted(self.outputs)}") from None


def joint_forward(
    model: Callable[..., Any],
    batch: Mapping[str, Tensor],
    recalled: Mapping[str, Mapping[str, Tensor] | Rows] | None = None,
    forward: Forward | None = None,
) -> tuple[View, dict[str, View]]:
    """One forward over the rows of ``batch`` and of everything recalled, and its outputs told apart again.

    Layers with batch statistics (BatchNorm) see the joint batch; every other row-wise model gives what separate
    forwards would give. With nothing recalled the model sees ``batch`` itself, bit for bit a step without a memory.

    Args:
        model: passed on to ``forward``.
        batch: the new rows.
        recalled: draws by name; those without rows are left out. They are moved to the device of ``batch``.
        forward: ``forward(model, batch) -> outputs``. It may read the columns that all parts share; only those it reads
            are joined. By default ``{"logits": model(batch["input"])}``.

    Returns:
        The view of the new rows, and the views of the draws by name.

    Raises:
        KeyError: ``forward`` reads a column that one of the parts lacks.
        ValueError: a column that differs in shape or dtype between the parts, or an output with another number of rows.

    >>> recalled = {"replay": {"input": torch.zeros(1, 3)}}
    >>> new, old = joint_forward(torch.nn.Identity(), {"input": torch.ones(2, 3)}, recalled)
    >>> new.outputs["logits"].shape, old["replay"].outputs["logits"].shape
    (torch.Size([2, 3]), torch.Size([1, 3]))
    """
    forward = forward or logits_of_input
    size = batch_size(batch)
    device = next(iter(batch.values())).device
    recalled = recalled or {}
    counts = {name: _count(rows, name) for name, rows in recalled.items()}
    draws = {name: on_device(recalled[name], device) for name, count in counts.items() if count}
    if not draws:
        return View(batch, _checked(forward(model, batch), size)), {}
    sizes = [size, *(counts[name] for name in draws)]
    outputs = _checked(forward(model, _Joint(batch, draws)), sum(sizes))
    pieces = {name: values.split_with_sizes(sizes) for name, values in outputs.items()}
    views = [
        View(rows, {name: piece[i] for name, piece in pieces.items()})
        for i, rows in enumerate([batch, *draws.values()])
    ]
    return views[0], dict(zip(draws, views[1:], strict=True))


def logits_of_input(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The default forward: ``{"logits": model(batch["input"])}``."""
    try:
        inputs = batch["input"]
    except KeyError:
        if "input" in batch:
            raise
        raise KeyError(f"column 'input' is missing; all parts have {sorted(batch)}; pass forward=") from None
    return {"logits": model(inputs)}


def columns_of(rows: Mapping[str, Tensor] | Rows) -> Mapping[str, Tensor]:
    """The columns of ``rows`` as a mapping."""
    return rows if isinstance(rows, Mapping) else rows.columns


def on_device(rows: Mapping[str, Tensor] | Rows, device: torch.device) -> Mapping[str, Tensor] | Rows:
    """``rows`` with every tensor on ``device``."""
    if device.type == "cpu" and all(values.is_cpu for values in columns_of(rows).values()):
        return rows
    return to_device(rows, device) if isinstance(rows, Mapping) else rows.to(device)


class _Joint(Mapping[str, Tensor]):
    """The rows of the batch, then of every draw; a column is joined when it is first read."""

    def __init__(self, batch: Mapping[str, Tensor], draws: Mapping[str, Mapping[str, Tensor] | Rows]) -> None:
        self._parts = [batch, *(columns_of(rows) for rows in draws.values())]
        self._draws = draws
        self._joined: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._joined:
            for part, where in zip(self._parts, ("batch", *self._draws), strict=True):
                if name not in part:
                    described = "the batch" if part is self._parts[0] else f"the draw {where!r}"
                    raise KeyError(f"column {name!r} is not in {described}, which has {sorted(part)}")
            self._joined[name] = concat([{name: part[name]} for part in self._parts])[name]
        return self._joined[name]

    def __iter__(self) -> Iterator[str]:
        first, *others = self._parts
        return (name for name in first if all(name in other for other in others))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _count(rows: Mapping[str, Tensor] | Rows, name: str) -> int:
    return batch_size(rows, f"recalled[{name!r}]") if isinstance(rows, Mapping) else len(rows)


def _checked(outputs: Mapping[str, Tensor], size: int) -> Mapping[str, Tensor]:
    if not isinstance(outputs, Mapping):
        raise TypeError(f"forward returned a {type(outputs).__name__}; expected a dict of tensors by name")
    for name, values in outputs.items():
        if not isinstance(values, Tensor):
            raise TypeError(f"output {name!r} is a {type(values).__name__}; expected a torch.Tensor")
        if values.is_nested or values.dim() == 0 or values.shape[0] != size:
            shape = "jagged" if values.is_nested else tuple(values.shape)
            raise ValueError(f"output {name!r} has shape {shape}; expected {size} rows, one per row of the joint batch")
    return outputs
