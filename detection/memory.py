"""ROIMemory: pooled features of regions, those of objects balanced by class, those of background kept apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.batch import batch_size, take
from ..core.selection import ClassBalanced, Selector, Uniform
from ..core.stores import GaussianStore, Growable, Half, Rows, Store
from ..core.stores.files import read_save, write_save
from ..core.stores.keeping import Reservoir

BACKGROUND = -1
"""The label of a region without object. Detectors number it differently, and some renumber it with every new class."""

FORGOTTEN = -1e4
"""Logit of a class that was forgotten."""

KIND = "memreplay ROI memory"


class ROIMemory:
    """A memory of regions: a `memreplay.core.memory.Source` made of one for objects and one for background.

    A row is a region as the detector's box head sees it: ``feature``, pooled from the feature maps, (C, S, S), or a
    vector (D,); ``label``, the class or -1; ``proposal`` and ``target``, the boxes (x1, y1, x2, y2) it came from and
    should become, in pixels of the resized image; ``iou`` of the two; ``source``, the image. Further columns, such as
    the ``logits`` of the detector that the rows come from, are kept as well.

    Rows hold the output of layers that no longer change: pooled features for a backbone that is frozen. The
    ``fingerprint`` says which one it was, see `check`.

    Args:
        objects: holds the rows of objects; a `Store` or a `GaussianStore`, which sees each feature as one vector.
        background: holds those of background.
        positive: share of objects among the rows drawn.
        fingerprint: of backbone and pooler.

    Raises:
        ValueError: ``positive`` is not between 0 and 1.

    >>> memory = ROIMemory.of_rows(objects=100, background=100)
    >>> rows = {"feature": torch.randn(8, 4, 2, 2), "label": torch.tensor([-1, -1, -1, -1, -1, 0, 1, 1])}
    >>> slots = memory.add(rows)
    >>> drawn = memory.draw(4)
    >>> drawn["feature"].shape, sorted(drawn["label"].tolist())
    (torch.Size([4, 4, 2, 2]), [-1, -1, 0, 1])
    """

    def __init__(
        self,
        objects: Store | GaussianStore,
        background: Store | GaussianStore,
        positive: float = 0.5,
        fingerprint: str | None = None,
    ) -> None:
        if not 0 < positive < 1:
            raise ValueError(f"positive is {positive}; expected a share between 0 and 1")
        self.objects, self.background = objects, background
        self.positive = positive
        self.fingerprint = fingerprint
        self._shape: tuple[int, ...] = ()
        self._columns: tuple[str, ...] = ()

    @staticmethod
    def of_rows(
        objects: int = 1000,
        background: int = 500,
        keep: Selector = Reservoir(),  # noqa: B008 (immutable)
        *,
        positive: float = 0.5,
        logits: bool = False,
        seed: int = 0,
        fingerprint: str | None = None,
    ) -> ROIMemory:
        """A memory of real rows in half precision.

        Args:
            objects: rows of objects it holds, the same number of every class.
            background: rows of background.
            keep: what stays of each class, and of the background.
        """
        columns = {"feature": Half(), **({"logits": Growable()} if logits else {})}
        return ROIMemory(
            Store(objects, keep=ClassBalanced(keep), columns=columns, seed=seed),
            Store(background, keep=keep, columns=columns, seed=seed + 1),
            positive,
            fingerprint,
        )

    @staticmethod
    def of_statistics(
        covariance: str = "diag", *, positive: float = 0.5, seed: int = 0, fingerprint: str | None = None
    ) -> ROIMemory:
        """A memory of means and covariances, which holds no row of the data. What it draws are features without boxes
        (compare NIFF, Guirguis et al., CVPR 2023, which trains a generator on such statistics).
        """
        objects, background = (GaussianStore(covariance=covariance, seed=seed + i) for i in range(2))
        return ROIMemory(objects, background, positive, fingerprint)

    # -- what it is -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.objects) + len(self.background)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows or statistics held."""
        return self.objects.nbytes + self.background.nbytes

    @property
    def thumbnail(self) -> int:
        """Side in pixels of the pictures of its regions; 0 where they have none."""
        if "thumbnail" not in self._columns or not isinstance(self.objects, Store):
            return 0
        held = [store for store in (self.objects, self.background) if len(store)]
        return int(held[0].summary()["columns"]["thumbnail"]["shape"][-1]) if held else 0

    def summary(self) -> dict[str, Any]:
        """What it holds, JSON-able: rows and bytes, rows of every class."""
        objects, background = self.objects.summary(), self.background.summary()
        return {
            "rows": len(self),
            "bytes": self.nbytes,
            "classes": objects.get("classes", {}),
            "background": background.get("rows", sum(background.get("classes", {}).values())),
            "feature": list(self._shape),
            "fingerprint": self.fingerprint,
        }

    def check(self, fingerprint: str, shape: Sequence[int]) -> None:
        """Whether the rows come from this backbone and pooler, for features of this shape.

        Raises:
            ValueError: they do not.
        """
        if self._shape and tuple(shape) != self._shape:
            raise ValueError(
                f"the memory holds features of shape {self._shape}; the detector pools {tuple(shape)}: "
                "they differ in channels, in the resolution of the pooler or in the tap"
            )
        if self.fingerprint is not None and self.fingerprint != fingerprint:
            raise ValueError(
                f"the memory is of the backbone and pooler {self.fingerprint}, the detector has {fingerprint}; "
                "expected the same ones, or rows that were extracted anew"
            )

    # -- rows -------------------------------------------------------------------------------------------------------

    def add(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Takes in regions. The first batch fixes the columns; columns that it did not have are left out later.

        Returns:
            int64 (B,): slots in the store that each row belongs to, -1 for rows not kept.

        Raises:
            ValueError: a column is missing, has another shape or is not finite; see `Store.add`.
        """
        size = batch_size(batch)
        feature = batch["feature"]
        if self._shape and tuple(feature.shape[1:]) != self._shape:
            raise ValueError(f"feature has shape {tuple(feature.shape)}; expected (B, {str(self._shape)[1:-1]})")
        names = self._columns or tuple(batch)
        missing = [name for name in names if name not in batch]
        if missing:
            raise ValueError(f"the batch lacks {missing}; the memory holds {sorted(names)}")
        rows = {name: batch[name].detach() for name in names}
        rows["feature"] = rows["feature"].float().flatten(1)
        slots = torch.full((size,), -1)
        found = batch["label"] != BACKGROUND
        for store, index in ((self.objects, found.nonzero()), (self.background, (~found).nonzero())):
            if len(index):
                slots[index[:, 0].cpu()] = store.add(take(rows, index[:, 0]))
        if size:
            self._shape, self._columns = tuple(feature.shape[1:]), names
        return slots

    def draw(self, n: int, by: Selector | None = None, query: Mapping[str, Tensor] | None = None) -> Rows:
        """``n`` regions, the share ``positive`` of them objects; fewer where it holds fewer.

        Args:
            by: what chooses the objects; by default as many of every class. Background is drawn uniformly.
            query: for ``by``.
        """
        if n < 0:
            raise ValueError(f"n is {n}; expected a number of rows of at least 0")
        by = ClassBalanced(Uniform()) if by is None else by
        query = None if query is None else {name: values.flatten(1) for name, values in query.items()}
        wanted = round(n * self.positive) if len(self.background) else n
        parts = []
        for store, count, selector in ((self.objects, wanted, by), (self.background, n - wanted, None)):
            if len(store) and count:
                chosen = Uniform() if selector is None else selector
                parts.append(store.draw(count, chosen, query if selector is by else None))
        return self._joined(parts)

    def rows(self) -> Rows:
        """All rows, objects first.

        Raises:
            TypeError: it holds statistics.
        """
        stores = [store for store in (self.objects, self.background) if isinstance(store, Store)]
        if len(stores) < 2:
            raise TypeError("the memory holds statistics, no rows")
        return self._joined([store.rows() for store in stores if len(store)])

    def _joined(self, parts: Sequence[Rows]) -> Rows:
        if not parts:
            return Rows({}, torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
        columns = {name: _cat([part[name] for part in parts]) for name in parts[0]}
        columns["feature"] = columns["feature"].unflatten(1, self._shape)
        return Rows(columns, torch.cat([part.slots for part in parts]), torch.cat([part.ids for part in parts]))

    def shuffle_labels(self, generator: torch.Generator) -> None:
        """Exchanges the labels of the objects at random: a control, in which only their features are those of objects.

        Raises:
            TypeError: it holds statistics.
        """
        if not isinstance(self.objects, Store):
            raise TypeError("the memory holds statistics, no rows")
        rows = self.objects.rows()
        order = torch.randperm(len(rows), generator=generator)
        self.objects.update(rows, label=rows["label"][order])

    def forget(self, label: int | Iterable[int]) -> int:
        """Removes what it holds of classes; returns how many rows that were.

        Where rows have ``logits``, what these say about the classes is erased as well.
        """
        labels = [label] if isinstance(label, int) else list(label)
        gone = self.objects.forget(label=labels)
        for store in (self.objects, self.background):
            if isinstance(store, Store) and len(store) and "logits" in self._columns:
                rows = store.rows()
                known = (~rows["logits"].isnan()).sum(1)
                for width in known.unique().tolist():  # rows can only be written as wide as they are
                    logits = rows["logits"][known == width, :width]
                    logits[:, [number + 1 for number in labels if number + 1 < width]] = FORGOTTEN
                    store.update(rows.ids[known == width], logits=logits)
        return gone

    # -- saving -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything the future depends on: ``"tensors"`` by name, and a JSON-able ``"meta"``."""
        parts = {"objects": self.objects.state_dict(), "background": self.background.state_dict()}
        return {
            "tensors": {f"{part}.{name}": t for part, state in parts.items() for name, t in state["tensors"].items()},
            "meta": {
                "kind": KIND,
                "positive": self.positive,
                "fingerprint": self.fingerprint,
                "shape": list(self._shape),
                "columns": list(self._columns),
                **{part: state["meta"] for part, state in parts.items()},
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken.

        Raises:
            ValueError: the state is of something else; see `Store.load_state_dict`.
        """
        meta, tensors = state["meta"], state["tensors"]
        if meta.get("kind") != KIND:
            raise ValueError(f"state is of {meta.get('kind')!r}; expected {KIND!r}")
        for part, store in (("objects", self.objects), ("background", self.background)):
            store.load_state_dict({"tensors": _within(tensors, part), "meta": meta[part]})
        self.positive, self.fingerprint = meta["positive"], meta["fingerprint"]
        self._shape, self._columns = tuple(meta["shape"]), tuple(meta["columns"])

    def save(self, folder: str | Path) -> None:
        """Writes it to ``folder``: safetensors and a manifest, in one step."""
        state = self.state_dict()
        write_save(Path(folder), state["tensors"], state["meta"])

    @staticmethod
    def of_state(state: Mapping[str, Any]) -> ROIMemory:
        """The memory that `state_dict` was taken of.

        Raises:
            ValueError: the state is of something else, or damaged.
        """
        meta = state["meta"]
        if meta.get("kind") != KIND:
            raise ValueError(f"state is of {meta.get('kind')!r}; expected {KIND!r}")
        objects, background = (
            _store(_within(state["tensors"], name), meta[name]) for name in ("objects", "background")
        )
        memory = ROIMemory(objects, background, meta["positive"], meta["fingerprint"])
        memory._shape, memory._columns = tuple(meta["shape"]), tuple(meta["columns"])
        return memory

    @staticmethod
    def load(folder: str | Path) -> ROIMemory:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no save.
            ValueError: it is damaged, or of something else.
        """
        tensors, meta = read_save(Path(folder))
        return ROIMemory.of_state({"tensors": tensors, "meta": meta})

    def __repr__(self) -> str:
        return f"ROIMemory({self.objects!r}, {self.background!r}, positive={self.positive})"


def _within(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {n.removeprefix(f"{part}."): values for n, values in tensors.items() if n.startswith(f"{part}.")}


def _store(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Store | GaussianStore:
    kind: type[Store] | type[GaussianStore] = GaussianStore if meta["kind"] == "GaussianStore" else Store
    return kind.of_state({"tensors": tensors, "meta": meta})


def _cat(parts: Sequence[Tensor]) -> Tensor:
    """Rows one after the other; those of `Growable` columns, which may differ in width, filled up with NaN."""
    width = max(part.shape[1] for part in parts) if parts[0].dim() == 2 else 0
    return torch.cat([F.pad(p, (0, width - p.shape[1]), value=torch.nan) if width else p for p in parts])
