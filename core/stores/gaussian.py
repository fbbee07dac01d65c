"""GaussianStore: a memory without stored rows, one Gaussian per class."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..batch import batch_size, take
from ..selection import ClassBalanced, Pool, Selector, Uniform, rank
from .block import all_finite
from .calibration import Calibrated
from .files import read_save, write_save
from .rows import Rows
from .scatter import Scatter, empty_scatter

_CANDIDATES = 8
_SETTINGS = ("feature", "label", "covariance", "shrinkage")
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


class GaussianStore:
    """Per-class mean and covariance of a feature, learned online in float64; draws pseudo-features from them.

    Replay without stored samples: a `memreplay.core.memory.Source` like `Store`, of fixed size per class. Statistics
    equal those of all rows at once to rounding, however the rows were batched (pairwise update of Chan, Golub and
    LeVeque 1979), except for the directions of ``"lowrank:r"``, which are an incremental decomposition (see
    `memreplay.core.stores.scatter.LowRank`; its variances are exact too).

    Args:
        feature: column of features, (B, D).
        label: integer column that names the class, (B,).
        covariance: ``"diag"`` (D numbers per class), ``"lowrank:r"`` ((r + 1) D per class), ``"full"`` (D * D per
            class) or ``"shared"`` (D * D in all, pooled within classes).
        shrinkage: s in [0, 1]; covariances become ``(1 - s) S + s diag(v)`` with v the variances within classes, all
            classes taken together (Friedman 1989, "Regularized Discriminant Analysis"). Above 0, a class of a single
            row has a spread too.
        device: where the statistics live and the features are drawn.
        seed: of its generator.
        fingerprint: names what computed the features, saved with the statistics.

    Raises:
        ValueError: an unknown kind of covariance, or a shrinkage outside [0, 1].

    >>> memory = GaussianStore(seed=0)
    >>> memory.add({"feature": torch.randn(40, 3), "label": torch.arange(40) % 2}).unique()
    tensor([0, 1])
    >>> rows = memory.draw(10)
    >>> rows["feature"].shape, rows["label"].bincount().tolist()
    (torch.Size([10, 3]), [5, 5])
    """

    def __init__(
        self,
        feature: str = "feature",
        label: str = "label",
        covariance: str = "diag",
        shrinkage: float = 0.0,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        fingerprint: str | None = None,
    ) -> None:
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage is {shrinkage}; expected a number from 0 to 1")
        self.feature, self.label, self.kind, self.shrinkage = feature, label, covariance, float(shrinkage)
        self.fingerprint = fingerprint
        self.audit: list[dict[str, Any]] = []
        """What was forgotten: one entry per call of `forget`."""
        self.seen = 0
        """Rows ever given to `add`."""
        self._device = torch.device(device)
        self._generator = torch.Generator().manual_seed(seed)
        self._reset(0, torch.float32)

    def _reset(self, dim: int, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._slots: dict[int, int] = {}
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._means = torch.zeros(0, dim, dtype=torch.float64, device=self._device)
        self._scatter = empty_scatter(self.kind, dim, self._device)
        self._roots: dict[int, Tensor] = {}

    # -- what it is ---------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of classes."""
        return len(self._slots)

    @property
    def classes(self) -> Tensor:
        """int64 (C,), the classes in the order of their slots."""
        return torch.tensor(list(self._slots), dtype=torch.int64)

    @property
    def counts(self) -> Tensor:
        """int64 (C,), rows seen of each of `classes`."""
        return self._counts.clone()

    @property
    def means(self) -> Tensor:
        """float64 (C, D), the mean of each of `classes`."""
        return self._means.clone()

    def mean(self, label: int) -> Tensor:
        """Mean of a class, float64 (D,).

        Raises:
            KeyError: a class of which no row was seen.
        """
        return self._means[self._slot(label)].clone()

    def covariance(self, label: int) -> Tensor:
        """Covariance that a class is drawn with, float64 (D, D): unbiased (divided by n - 1), then shrunk.

        Raises:
            KeyError: a class of which no row was seen.
        """
        slot = self._slot(label)
        scale, floor = self._shrunk()
        return scale[slot] * self._scatter.matrix(slot) + floor.diag()

    @property
    def nbytes(self) -> int:
        """Bytes of the statistics."""
        held = (self._means, self._counts, *self._scatter.tensors.values())
        return sum(values.nbytes for values in held)

    def summary(self) -> dict[str, Any]:
        """What the memory holds, JSON-able: classes with their rows, bytes, settings."""
        return {
            "classes": dict(zip(self._slots, self._counts.tolist(), strict=True)),
            "dim": self._means.shape[1],
            "seen": self.seen,
            "bytes": self.nbytes,
            "covariance": self.kind,
            "shrinkage": self.shrinkage,
            "fingerprint": self.fingerprint,
            "forgotten": len(self.audit),
        }

    def __repr__(self) -> str:
        return (
            f"GaussianStore({len(self)} classes x {self._means.shape[1]} features, covariance={self.kind!r}, "
            f"shrinkage={self.shrinkage}, {self.nbytes} bytes)"
        )

    # -- learning and forgetting --------------------------------------------------------------------------------

    def add(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Takes the rows of a batch into the statistics of their classes; columns other than the two are ignored.

        Returns:
            int64 (B,): the slot of each row's class.

        Raises:
            ValueError: a column is missing or has another shape or dtype, or a feature is NaN or infinite. Nothing is
                changed.
        """
        with torch.inference_mode(False), torch.no_grad():  # tensors made in inference mode could not be updated later
            features, labels, dtype = self._read(batch)
            if not len(labels):
                return labels
            if not len(self):
                self._reset(features.shape[1], dtype)
            names, group, counts = torch.unique(labels, return_inverse=True, return_counts=True)
            place = group.to(self._device)
            means = features.new_zeros(len(names), features.shape[1]).index_add_(0, place, features)
            means /= counts.to(self._device)[:, None]
            scatter = self._scatter.of(features - means[place], place, len(names))
            slots = self._absorb(names.tolist(), counts, means, scatter)
            self.seen += len(labels)
            return slots[group]

    def merge(self, other: GaussianStore) -> None:
        """Takes in the statistics of another memory, as if its rows had been added here.

        Raises:
            ValueError: the two differ in columns, covariance or number of features. Nothing is changed.
        """
        for name in ("feature", "label", "kind"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                raise ValueError(f"other has {name} {its!r}; expected {mine!r} as here")
        dim = other._means.shape[1]
        if len(self) and len(other) and self._means.shape[1] != dim:
            raise ValueError(f"other has {dim} features; expected {self._means.shape[1]} as here")
        if len(other):
            if not len(self):
                self._reset(dim, other._dtype)
            scatter = other._scatter.to(self._device)
            self._absorb(list(other._slots), other._counts, other._means.to(self._device), scatter)
        self.seen += other.seen

    def forget(self, **where: int | Sequence[int] | Tensor) -> int:
        """Removes classes, ``forget(label=3)`` or ``forget(label=[3, 5])``; leaves a line in `audit`.

        With ``"shared"`` covariance the means go, but the pooled matrix keeps what the classes gave to it.

        Returns:
            Number of rows that the classes had been learned from; 0 where none was known.

        Raises:
            ValueError: anything but the label column is named.
        """
        if set(where) != {self.label}:
            raise ValueError(f"forget was given {sorted(where)}; expected only {self.label!r}")
        named = set(torch.as_tensor(where[self.label]).reshape(-1).tolist())
        kept = [name for name in self._slots if name not in named]
        slots = torch.tensor([self._slots[name] for name in kept], dtype=torch.int64)
        gone = int(self._counts.sum() - self._counts[slots].sum())
        self.audit.append({"where": {self.label: sorted(named)}, "rows": gone, "seen": self.seen})
        if not kept:
            self._reset(self._means.shape[1], self._dtype)
            return gone
        self._slots = {name: slot for slot, name in enumerate(kept)}
        self._counts, self._means = self._counts[slots], self._means[slots.to(self._device)]
        self._scatter.keep(slots)
        self._roots.clear()
        return gone

    # -- recalling ----------------------------------------------------------------------------------------------

    def draw(self, n: int, by: Selector | None = None, query: Mapping[str, Tensor] | None = None) -> Rows:
        """``n`` new pseudo-features with their labels; none while no class is known.

        Args:
            n: how many.
            by: ``ClassBalanced(Uniform())``, the default here, gives every class the same share; ``Uniform()`` gives
                each class a chance in proportion to the rows seen of it. Any other selector chooses from 8 n
                pseudo-features drawn in equal shares.
            query: passed to the selector.

        Returns:
            Rows whose feature has the dtype of the rows added first. Slots are those of the classes; ids are -1.

        Raises:
            ValueError: ``n`` is negative.
        """
        if n < 0:
            raise ValueError(f"n is {n}; expected a number of rows of at least 0")
        if not len(self) or n == 0:
            return self._sample(torch.empty(0, dtype=torch.int64))
        if by is None or by == ClassBalanced(Uniform(), self.label):
            return self._sample(self._balanced(n))
        if by == Uniform():
            shares = self._counts.double()
            return self._sample(torch.multinomial(shares, n, replacement=True, generator=self._generator))
        candidates = self._sample(self._balanced(_CANDIDATES * n))
        chosen = rank(by, Pool(candidates.columns), n, query=query, generator=self._generator)
        columns = take(candidates.columns, chosen.index)
        return Rows(columns, candidates.slots[chosen.index], candidates.ids[chosen.index], chosen.score, chosen.weight)

    def nearest(self, query: Tensor, k: int = 1) -> Tensor:
        """The ``k`` classes whose means are nearest (Euclidean) to each of ``query`` (Q, D), as int64 (Q, k).
        Fewer classes than ``k``: all of them.

        Raises:
            ValueError: ``query`` has another number of features, or ``k`` is below 1.
        """
        return self.classes[self._nearest_slots(self._as_features(query, "query"), k)]

    def calibrate(self, feature: Tensor, k: int = 2, alpha: float = 0.21) -> Calibrated:
        """Distributions for a novel class from its shots and the classes held here (Yang, Liu and Xu 2021, "Free Lunch
        for Few-shot Learning: Distribution Calibration").

        Each shot x borrows from the k classes N whose means are nearest to it: mean ``(sum_N mean + x) / (k + 1)``,
        covariance ``sum_N covariance / k + alpha`` (added to every entry). The defaults are those of the paper for
        mini-ImageNet, where the shots are transformed by `tukey` first.

        Args:
            feature: the shots of one class, (S, D) or (D,).
            k: classes to borrow from; fewer classes held: all of them.
            alpha: spread added.

        Raises:
            ValueError: no class is held, ``k`` below 1, ``alpha`` below 0, or another number of features.
        """
        shots = self._as_features(feature if feature.dim() != 1 else feature[None], "feature")
        if not len(self):
            raise ValueError("the memory holds no class to borrow from; expected at least one")
        if alpha < 0:
            raise ValueError(f"alpha is {alpha}; expected a spread of at least 0")
        slots = self._nearest_slots(shots, k)
        scale, floor = self._shrunk()
        needed = torch.unique(slots).tolist()
        known = {slot: scale[slot] * self._scatter.matrix(slot) + floor.diag() for slot in needed}
        covariances = [torch.stack([known[slot] for slot in row]).mean(0) + alpha for row in slots.tolist()]
        means = (self._means[slots].sum(1) + shots) / (slots.shape[1] + 1)
        return Calibrated(means, torch.stack(covariances), feature.dtype)

    # -- saving -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Statistics and generator: ``"tensors"`` by name, and a JSON-able ``"meta"``."""
        return {
            "meta": {
                "kind": "GaussianStore",
                **self._settings(),
                "fingerprint": self.fingerprint,
                "dtype": str(self._dtype).removeprefix("torch."),
                "seen": self.seen,
                "audit": copy.deepcopy(self.audit),
            },
            "tensors": {
                "classes": self.classes,
                "counts": self.counts,
                "means": self.means,
                "generator": self._generator.get_state(),
                **{f"scatter.{name}": values.clone() for name, values in self._scatter.tensors.items()},
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned; drawing goes on bit for bit where it was.

        Raises:
            ValueError: the state is of another memory (columns, covariance, shrinkage, encoder), or a part is missing,
                malformed or not finite. Nothing is changed.
        """
        meta, tensors = state.get("meta"), state.get("tensors")
        if not isinstance(meta, Mapping) or not isinstance(tensors, Mapping):
            raise ValueError(f"state has {sorted(state)}; expected 'meta' and 'tensors'")
        expected = {"kind": "GaussianStore", **self._settings()}
        if self.fingerprint is not None:
            expected["fingerprint"] = self.fingerprint
        for name, value in expected.items():
            if meta.get(name) != value:
                raise ValueError(f"state has {name} {meta.get(name)!r}; expected {value!r} as here")
        loaded = GaussianStore(**self._settings(), device=self._device, fingerprint=meta.get("fingerprint"))
        loaded._restore(meta, tensors)
        vars(self).update(vars(loaded))

    def save(self, folder: str | Path) -> None:
        """Writes the memory to a folder: safetensors and a manifest. The last save stays whole until the new one is.

        Raises:
            OSError: the folder cannot be written; the last save is untouched.
        """
        state = self.state_dict()
        write_save(Path(folder), state["tensors"], state["meta"])

    @staticmethod
    def load(
        folder: str | Path, *, device: torch.device | str = "cpu", fingerprint: str | None = None
    ) -> GaussianStore:
        """Reads a memory written by `save`, checked byte for byte.

        Args:
            folder: where it was saved.
            device: where the statistics shall live.
            fingerprint: if given, the encoder that the memory must have been made with.

        Raises:
            FileNotFoundError: there is no save.
            ValueError: it is damaged, of a newer version, of another kind of memory or of another encoder.
        """
        tensors, meta = read_save(Path(folder))
        if meta.get("kind") != "GaussianStore" or any(name not in meta for name in _SETTINGS):
            raise ValueError(f"{folder} holds a {meta.get('kind')!r}; expected a 'GaussianStore'")
        return GaussianStore.of_state({"tensors": tensors, "meta": meta}, device=device, fingerprint=fingerprint)

    @staticmethod
    def of_state(
        state: Mapping[str, Any], *, device: torch.device | str = "cpu", fingerprint: str | None = None
    ) -> GaussianStore:
        """The memory that `state_dict` was taken of; the arguments are those of `load`.

        Raises:
            ValueError: the state is damaged, or of another encoder.
        """
        meta = state["meta"]
        memory = GaussianStore(**{name: meta[name] for name in _SETTINGS}, device=device, fingerprint=fingerprint)
        memory.load_state_dict(state)
        return memory

    def _restore(self, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        dtype = _DTYPES.get(str(meta.get("dtype")))
        seen, audit = meta.get("seen"), meta.get("audit")
        if dtype is None or not isinstance(seen, int) or not isinstance(audit, list):
            raise ValueError(f"state has meta {dict(meta)}; expected a dtype, the rows seen and an audit list")
        means = _stored(tensors, "means", (None, None), torch.float64)
        n_classes, dim = means.shape
        classes = _stored(tensors, "classes", (n_classes,), torch.int64)
        counts = _stored(tensors, "counts", (n_classes,), torch.int64)
        if len(torch.unique(classes)) != n_classes or (counts < 1).any():
            raise ValueError("state has a class twice or one without rows; expected distinct classes with rows")
        self._reset(dim, dtype)
        self._scatter.grow(n_classes)
        for name, blank in self._scatter.tensors.items():
            given = _stored(tensors, f"scatter.{name}", tuple(blank.shape), blank.dtype)
            self._scatter.tensors[name] = given.to(blank.device, copy=True)
        try:
            self._generator.set_state(_stored(tensors, "generator", (None,), torch.uint8).cpu())
        except RuntimeError as error:
            raise ValueError(f"state has no generator state: {error}") from error
        self._slots = {name: slot for slot, name in enumerate(classes.tolist())}
        self._counts, self._means = counts.to("cpu", copy=True), means.to(self._device, copy=True)
        self.seen, self.audit = seen, copy.deepcopy(audit)

    # -- inside -------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        return dict(zip(_SETTINGS, (self.feature, self.label, self.kind, self.shrinkage), strict=True))

    def _read(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, torch.dtype]:
        for name in (self.feature, self.label):
            if name not in batch:
                raise ValueError(f"column {name!r} is missing; the batch has {sorted(batch)}")
        batch_size({name: batch[name] for name in (self.feature, self.label)})
        features, labels = batch[self.feature].detach(), batch[self.label]
        if not features.is_floating_point():
            raise ValueError(f"column {self.feature!r} is {features.dtype}; expected floating-point features")
        exact = self._as_features(features, f"column {self.feature!r}")
        if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
            described = f"{labels.dtype} of shape {tuple(labels.shape)}"
            raise ValueError(f"column {self.label!r} is {described}; expected integers of shape (B,)")
        if not all_finite(exact):
            row = int((~exact.isfinite().all(1)).nonzero()[0])
            raise ValueError(f"column {self.feature!r} has NaN or infinity in row {row}; expected finite features")
        return exact, labels.detach().to("cpu", torch.int64), features.dtype

    def _as_features(self, values: Tensor, name: str) -> Tensor:
        dim = self._means.shape[1]
        if values.is_nested or values.dim() != 2 or (len(self) and values.shape[1] != dim):
            shape = "jagged" if values.is_nested else tuple(values.shape)
            raise ValueError(f"{name} has shape {shape}; expected (rows, {dim if len(self) else 'features'})")
        return values.detach().to(self._device, torch.float64)

    def _absorb(self, names: list[int], counts: Tensor, means: Tensor, scatter: Scatter) -> Tensor:
        """Takes in the statistics of distinct classes; their slots."""
        unknown = [name for name in names if name not in self._slots]
        for name in unknown:
            self._slots[name] = len(self._slots)
        self._counts = torch.cat([self._counts, self._counts.new_zeros(len(unknown))])
        self._means = torch.cat([self._means, self._means.new_zeros(len(unknown), means.shape[1])])
        self._scatter.grow(len(unknown))
        slots = torch.tensor([self._slots[name] for name in names])
        held, total = self._counts[slots], self._counts[slots] + counts
        gap = means - self._means[slots]
        self._scatter.absorb(slots, scatter, (held * counts / total.double()).to(self._device), gap)
        self._means[slots] += gap * (counts / total.double()).to(self._device)[:, None]
        self._counts[slots] = total
        self._roots.clear()
        return slots

    def _slot(self, label: int) -> int:
        try:
            return self._slots[int(label)]
        except KeyError:
            raise KeyError(f"no row of class {label} was seen; the memory has {list(self._slots)}") from None

    def _shrunk(self) -> tuple[Tensor, Tensor]:
        """Scale (C,) and floor (D,) of the covariances."""
        scale = (1 - self.shrinkage) / self._scatter.degrees(self._counts)
        return scale.to(self._device), self.shrinkage * self._scatter.pooled(self._counts)

    def _balanced(self, n: int) -> Tensor:
        """Slots of ``n`` rows, every class in turn in a random order, so that a prefix is balanced too."""
        order = torch.randperm(len(self), generator=self._generator)
        return order.repeat(-(-n // len(self)))[:n]

    def _sample(self, slots: Tensor) -> Rows:
        features = self._means[slots.to(self._device)]
        if len(slots):
            features += self._scatter.deviate(slots, *self._shrunk(), self._roots, self._generator)
        columns = {self.feature: features.to(self._dtype), self.label: self.classes[slots].to(self._device)}
        return Rows(columns, slots, torch.full_like(slots, -1))

    def _nearest_slots(self, features: Tensor, k: int) -> Tensor:
        if k < 1:
            raise ValueError(f"k is {k}; expected at least 1")
        distances = torch.cdist(features, self._means, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.sort(distances, dim=1, stable=True).indices[:, :k].cpu()


def _stored(tensors: Mapping[str, Tensor], name: str, shape: tuple[int | None, ...], dtype: torch.dtype) -> Tensor:
    given = tensors.get(name)
    if not isinstance(given, Tensor):
        raise ValueError(f"state has no tensor {name!r}; it has {sorted(tensors)}")
    same = given.dim() == len(shape) and all(a in (None, b) for a, b in zip(shape, given.shape, strict=True))
    if not same or given.dtype is not dtype:
        raise ValueError(f"state has {name!r} as {given.dtype} {tuple(given.shape)}; expected {dtype} {shape}")
    if given.is_floating_point() and not given.isfinite().all():
        raise ValueError(f"state has NaN or infinity in {name!r}; expected finite numbers")
    return given
