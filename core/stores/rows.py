"""Rows: what a memory hands out, columns together with where each row came from."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..batch import Batch, to_device


@dataclass(slots=True, eq=False, repr=False)
class Rows:
    """Experience recalled from a memory.

    Reads like the batch it carries (``rows["label"]``, ``"label" in rows``, ``dict(rows)``, ``f(**rows)``), except
    that ``len(rows)`` is the number of rows. The columns are copies: the memory may overwrite the rows at any time.

    Attributes:
        columns: the columns by name, each with n rows.
        slots: int64 (n,), where each row lay in the memory when it was drawn.
        ids: int64 (n,), the arrival number of each row, which stays its own; -1 where a row was made up.
        scores: (n,) what each row was ranked by, or None.
        weights: (n,) importance weights that undo a non-uniform draw, or None.

    >>> rows = Rows({"label": torch.tensor([3, 4])}, slots=torch.tensor([0, 5]), ids=torch.tensor([7, 12]))
    >>> len(rows), list(rows), rows["label"].tolist()
    (2, ['label'], [3, 4])
    """

    columns: Batch
    slots: Tensor
    ids: Tensor
    scores: Tensor | None = None
    weights: Tensor | None = None

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.columns[name]
        except KeyError:
            raise KeyError(f"the rows have no column {name!r}; they have {sorted(self.columns)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return self.ids.shape[0]

    def keys(self) -> KeysView[str]:
        """Names of the columns."""
        return self.columns.keys()

    def values(self) -> ValuesView[Tensor]:
        """The columns."""
        return self.columns.values()

    def items(self) -> ItemsView[str, Tensor]:
        """Names and columns."""
        return self.columns.items()

    def with_columns(self, **columns: Tensor) -> Rows:
        """The same rows with some columns replaced or added; neither these rows nor the memory change.

        >>> rows = Rows({"label": torch.tensor([3])}, slots=torch.tensor([0]), ids=torch.tensor([7]))
        >>> rows.with_columns(weight=torch.ones(1)).keys()
        dict_keys(['label', 'weight'])

        Raises:
            ValueError: a column that has not one entry per row.
        """
        for name, values in columns.items():
            if values.dim() == 0 or values.size(0) != len(self):
                raise ValueError(f"column {name!r} has shape {tuple(values.shape)}; expected {len(self)} rows")
        return replace(self, columns={**self.columns, **columns})

    def to(self, device: torch.device | str) -> Rows:
        """The rows with every tensor on ``device``."""
        return Rows(
            to_device(self.columns, device),
            self.slots.to(device),
            self.ids.to(device),
            None if self.scores is None else self.scores.to(device),
            None if self.weights is None else self.weights.to(device),
        )

    def __repr__(self) -> str:
        described = [f"{name}: {_describe(values)}" for name, values in self.columns.items()]
        described += [name for name in ("scores", "weights") if getattr(self, name) is not None]
        return f"Rows({len(self)}; {', '.join(described)})"


def _describe(values: Tensor) -> str:
    shape = "jagged" if values.is_nested else "x".join(map(str, values.shape[1:])) or "scalar"
    return f"{shape} {str(values.dtype).removeprefix('torch.')}"
