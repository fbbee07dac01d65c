"""ReplayMemory: a source of experience, what is recalled of it, and how that enters the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .distributed import Replicas, is_plain
from .mixers.cross_entropy import CrossEntropy, ReplayCrossEntropy
from .mixers.term import Composable, Scaled, Sum, Term, learnable
from .mixers.transform import Transform
from .mixers.view import View
from .readout import NearestClassMean, Prediction, Readout
from .reporting.trace import Trace
from .selection import Selector, Uniform
from .stores.files import read_save, write_save
from .stores.rows import Rows

_DEFAULT_MIX = CrossEntropy() + ReplayCrossEntropy()


class Source(Protocol):
    """Where experience comes from: what a `ReplayMemory` needs of a store.

    Parameters are typed loosely because a class named in a configuration file must match the types to the letter.
    """

    def __len__(self) -> int:
        """0 while there is nothing to draw."""
        ...

    def add(self, batch: Any) -> Any:
        """Takes in new rows, a batch."""
        ...

    def draw(self, n: int, by: Any = ..., query: Any = None) -> Rows:
        """At most ``n`` rows, by a selector and, if that needs one, a query (a batch)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything the future depends on: ``"tensors"`` by name, and a JSON-able ``"meta"``."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        ...


class Projection(Protocol):
    """A way to write gradients from two losses, such as `AGem`; used in place of ``loss.backward()``."""

    def __call__(self, new: Tensor, replay: Tensor, *, accelerator: Any | None = None) -> None: ...


@dataclass(frozen=True)
class Loss:
    """The loss of a step, in named parts.

    Attributes:
        terms: scalars by name.
        total: their sum; 0 where there is no term.
        on_recalled: names of the terms that read recalled rows.
        project: what combines the gradients of the two kinds of terms, or None.
        accelerator: the one that the memory is attached to, or None.
    """

    terms: dict[str, Tensor]
    total: Tensor
    on_recalled: frozenset[str] = field(default=frozenset(), repr=False)
    project: Projection | None = field(default=None, repr=False)
    accelerator: Any | None = field(default=None, repr=False)

    def backward(self, accelerator: Any | None = None) -> None:
        """Adds the gradients to ``.grad``, through ``accelerator`` or else the one that the memory is attached to.

        With a projection the gradients of the terms on new rows are corrected by those of the terms on recalled ones.
        """
        accelerator = accelerator or self.accelerator
        if not self.terms:
            return
        replay = [value for name, value in self.terms.items() if name in self.on_recalled]
        if self.project is not None and replay:
            new = [value for name, value in self.terms.items() if name not in self.on_recalled]
            self.project(_sum(new), _sum(replay), accelerator=accelerator)
        elif accelerator is None or (is_plain(accelerator) and accelerator.gradient_accumulation_steps == 1):
            self.total.backward()  # as the accelerator would, but for a division by 1
        else:
            accelerator.backward(self.total)

    def floats(self) -> dict[str, float]:
        """The total as ``"loss"`` and the terms by name, for reports; waits for a GPU once."""
        named = {"loss": self.total, **self.terms}
        values = torch.stack([value.detach() for value in named.values()])
        return dict(zip(named, values.tolist(), strict=True))


class ReplayMemory:
    """Replay for any model and loop: remembers rows, recalls some of them, and puts them into the loss.

    With nothing to recall (``replay=0``, an empty source or none) a step is bit for bit a step without a memory. The
    global random state is never touched.

    Args:
        source: a `Store` or another `Source`; None for training without a memory through the same code.
        draw: the selector that recalls, or one per draw by name. Uniform by default.
        mix: the loss, terms added up.
        replay: rows to recall per step, or rows per draw by name. A number is a draw named ``"replay"``.
        transform: changes recalled rows, such as an augmentation; or several in a row. They have a generator of the
            memory's own.
        project: how the gradients of new and recalled rows are combined (`AGem`); None: their sum.
        seed: of the generator for the transforms.
        trace: keeps account of what is recalled and remembered, where it is wanted.

    Raises:
        ValueError: a draw without a selector or a selector without a draw, or a term that reads a draw not taken.

    >>> from memreplay.core.stores import Store
    >>> memory = ReplayMemory(Store(100), replay=2)
    >>> memory.recall() is None
    True
    >>> memory.remember(input=torch.randn(8, 4), label=torch.arange(8))
    >>> memory.recall()["replay"]["input"].shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        source: Source | None = None,
        draw: Selector | Mapping[str, Selector] = Uniform(),  # noqa: B008 (immutable)
        mix: Term = _DEFAULT_MIX,
        replay: int | Mapping[str, int] = 32,
        transform: Transform | Sequence[Transform] | None = None,
        project: Projection | None = None,
        seed: int = 0,
        trace: Trace | None = None,
    ) -> None:
        sizes = {"replay": replay} if isinstance(replay, int) else dict(replay)
        for name, n in sizes.items():
            if isinstance(n, bool) or not isinstance(n, int) or n < 0:
                raise ValueError(f"replay[{name!r}] is {n!r}; expected a number of rows of at least 0")
        draws = dict(draw) if isinstance(draw, Mapping) else dict.fromkeys(sizes, draw)
        if draws.keys() != sizes.keys():
            raise ValueError(f"draw names {sorted(draws)} but replay names {sorted(sizes)}; expected the same draws")
        unknown = set(getattr(mix, "reads", ())) - sizes.keys()
        if unknown and source is not None and any(sizes.values()):
            raise ValueError(f"mix reads the draws {sorted(unknown)}; replay has only {sorted(sizes)}")
        self.source = source
        self.mix = mix
        self.replay = {name: n for name, n in sizes.items() if n}
        self.draw = {name: draws[name] for name in self.replay}
        self.transforms = () if transform is None else (transform,) if callable(transform) else tuple(transform)
        self.project = project
        self.trace = trace
        self.step = 0
        """Losses computed so far, which schedules in ``mix`` go by."""
        self.frozen = False
        """Whether `remember` does nothing."""
        self._on_recalled = frozenset(_names_on_recalled(mix))
        if project is not None and not set(getattr(mix, "names", ())) - self._on_recalled:
            raise ValueError(f"mix is {mix!r}, without a term on new rows alone; project={project!r} needs one")
        self._generator = torch.Generator().manual_seed(seed)
        self._accelerator: Any | None = None
        self._replicas: Replicas | None = None
        self._hooks: list[Any] = []
        self._drawn: dict[str, int] = {}

    # -- a step -------------------------------------------------------------------------------------------------

    def recall(
        self, query: Mapping[str, Tensor] | None = None, score: Callable[..., Tensor] | None = None
    ) -> dict[str, Rows] | None:
        """What is recalled for this step, by the name of the draw; None while there is nothing.

        Args:
            query: rows that selectors such as `Nearest` compare with: ``{"feature": (Q, D)}``.
            score: a model's verdict on candidate rows, for draws by `Rescored`.

        On several processes the draws are the same everywhere and each process gets its share of the rows. Queries are
        put together, and with a query or a score the choice of rank 0 counts.

        Raises:
            ValueError: ``score`` is given but no draw takes one.
        """
        if self.source is None or not self.replay or len(self.source) == 0:
            return None
        replicas = self._replicas
        if replicas is not None and query is not None:
            query = replicas.gather(query)
        recalled = {}
        for name, by in self._scored(score).items():
            rows = self.source.draw(self.replay[name], by=by, query=query)
            if replicas is not None and (query is not None or score is not None):
                rows = replicas.from_main(rows)
            if self.trace is not None:
                self.trace.recalled(name, self.draw[name], rows, self.step)
            for transform in self.transforms:
                rows = rows.with_columns(**transform(rows.columns, self._generator))
            self._drawn[name] = len(rows)
            recalled[name] = rows if replicas is None else replicas.share(rows)
        return recalled

    def loss(self, new: View, old: Mapping[str, View] | None = None) -> Loss:
        """The loss of a step, from the views that `joint_forward` returns.

        On several processes it is the loss over the rows of all of them. Each call with gradients enabled counts as a
        step for the schedules.
        """
        old = old or {}
        if self._replicas is not None:
            new, old = self._replicas.views(new, old, self._drawn)
        mix = self.mix.at(self.step) if isinstance(self.mix, Composable) else self.mix
        terms = mix(new, old)
        if torch.is_grad_enabled():
            self.step += 1
        return Loss(terms, _sum(list(terms.values())), self._on_recalled, self.project, self._accelerator)

    def remember(self, **columns: Tensor) -> None:
        """Offers rows to the source, detached: ``remember(**batch, logits=new.outputs["logits"])``.

        Does nothing once the memory is frozen. On several processes every source is offered the rows of all; where it
        can tell which of them it wants (see `Store.wanted`), only these travel. Without columns there is nothing to
        remember, which all processes must agree on.
        """
        if self.source is None or self.frozen:
            return
        batch = {name: values.detach() for name, values in columns.items()}
        if self.trace is not None and batch:
            rows = batch if self._replicas is None else self._replicas.gather(batch)
            seen = getattr(self.source, "seen", 0)
            self.trace.turnover.note(rows, self.source.add(rows), seen)
        elif self._replicas is not None:
            self._replicas.add(self.source, batch)
        elif batch:
            self.source.add(batch)

    def freeze(self) -> None:
        """From now on `remember` does nothing; recalling goes on."""
        self.frozen = True

    def unfreeze(self) -> None:
        """`remember` works again."""
        self.frozen = False

    # -- without a loop -----------------------------------------------------------------------------------------

    def predict(self, feature: Tensor, by: Readout = NearestClassMean()) -> Prediction:  # noqa: B008 (immutable)
        """Classes of ``feature`` (B, D), read out of the rows held: a learner without a training loop.

        >>> from memreplay.core.stores import Store
        >>> memory = ReplayMemory(Store(100))
        >>> memory.remember(feature=torch.tensor([[1.0, 0.0], [0.0, 1.0]]), label=torch.tensor([3, 7]))
        >>> memory.predict(torch.tensor([[0.9, 0.2]])).labels
        tensor([3])

        Raises:
            ValueError: there is nothing to read, or the rows do not fit ``feature``.
        """
        if self.source is None or len(self.source) == 0:
            raise ValueError("the memory is empty; expected rows to predict from")
        return by(_readable(self.source), feature)

    # -- several processes, checkpoints -------------------------------------------------------------------------

    def attach(self, accelerator: Any, name: str = "memory") -> None:
        """Makes the memory part of a run with `accelerate`: of its processes and its checkpoints.

        ``accelerator.save_state`` then writes the memory into the folder ``name`` of the checkpoint, and ``load_state``
        reads it, which first waits for every process. Attaching again replaces what was attached.

        Args:
            accelerator: an `accelerate.Accelerator`.
            name: one per memory, where a run has several.
        """
        self.detach()

        def save(models: object, weights: object, folder: str) -> None:
            if accelerator.is_main_process:
                self.save(Path(folder) / name)
            accelerator.wait_for_everyone()

        def load(models: object, folder: str) -> None:
            accelerator.wait_for_everyone()
            self.load(Path(folder) / name)

        self._hooks = [
            accelerator.register_save_state_pre_hook(save),
            accelerator.register_load_state_pre_hook(load),
        ]
        self._accelerator = accelerator
        self._replicas = Replicas(accelerator) if accelerator.num_processes > 1 else None
        for module in learnable(self.mix):
            module.to(accelerator.device)

    def detach(self) -> None:
        """Undoes `attach`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._accelerator, self._replicas = [], None, None

    def state_dict(self) -> dict[str, Any]:
        """Everything the future depends on: the source, the generator, the step, learnable terms; and the trace."""
        return {
            "source": None if self.source is None else self.source.state_dict(),
            "tensors": self._tensors(),
            "meta": self._meta(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, bit for bit.

        Raises:
            ValueError: the state is of another source; see its ``load_state_dict``.
        """
        if (state["source"] is None) != (self.source is None):
            raise ValueError(f"the state has source {state['source']}; this memory has {self.source!r}")
        if self.source is not None:
            self.source.load_state_dict(state["source"])
        for i, module in enumerate(learnable(self.mix)):
            prefix = f"terms.{i}."
            parts = {n.removeprefix(prefix): t for n, t in state["tensors"].items() if n.startswith(prefix)}
            module.load_state_dict(parts)
        self._generator.set_state(state["tensors"]["generator"])
        self.step, self.frozen = state["meta"]["step"], state["meta"]["frozen"]
        if self.trace is not None:
            told = state["meta"].get("trace")
            counts = {n.removeprefix("trace."): t for n, t in state["tensors"].items() if n.startswith("trace.")}
            self.trace.load_state_dict(None if told is None else {"tensors": counts, "meta": told})

    def save(self, folder: str | Path) -> None:
        """Writes the source into ``folder`` itself, from where a `Store` can be loaded alone, and the rest into
        ``folder/replay``: safetensors and manifests, never pickle.
        """
        folder = Path(folder)
        write_save(folder / "replay", self._tensors(), self._meta())
        if self.source is None:
            return
        if hasattr(self.source, "save"):
            self.source.save(folder)
        else:
            state = self.source.state_dict()
            write_save(folder, state["tensors"], state["meta"])

    def load(self, folder: str | Path) -> None:
        """Goes on where `save` was called.

        Raises:
            FileNotFoundError: there is no save.
            ValueError: it is damaged, or of another source.
        """
        folder = Path(folder)
        tensors, meta = read_save(folder / "replay")
        source = None
        if self.source is not None:
            source = dict(zip(("tensors", "meta"), read_save(folder), strict=True))
        self.load_state_dict({"source": source, "tensors": tensors, "meta": meta})

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"generator": self._generator.get_state()}
        for i, module in enumerate(learnable(self.mix)):
            tensors.update({f"terms.{i}.{name}": values.clone() for name, values in module.state_dict().items()})
        if self.trace is not None:
            tensors.update({f"trace.{name}": values for name, values in self.trace.state_dict()["tensors"].items()})
        return tensors

    def _meta(self) -> dict[str, Any]:
        trace = {} if self.trace is None else {"trace": self.trace.state_dict()["meta"]}
        return {"step": self.step, "frozen": self.frozen, **trace}

    def __repr__(self) -> str:
        parts = [repr(self.source), f"draw={self.draw}", f"mix={self.mix}", f"replay={self.replay}"]
        return f"ReplayMemory({', '.join(parts)}{', frozen' if self.frozen else ''})"

    def _scored(self, score: Callable[..., Tensor] | None) -> dict[str, Selector]:
        """The selectors by name, those that take a score with ``score`` filled in."""
        if score is None:
            return self.draw
        takes = {name for name, by in self.draw.items() if is_dataclass(by) and "score" in {f.name for f in fields(by)}}
        if not takes:
            raise ValueError(f"score was given, but none of the draws takes one: {self.draw}; expected Rescored(...)")
        return {
            name: replace(by, score=score) if name in takes else by  # type: ignore[type-var]
            for name, by in self.draw.items()
        }


def _sum(values: Iterable[Tensor]) -> Tensor:
    first, *others = list(values) or [torch.zeros(())]
    for value in others:
        first = first + value
    return first


def _names_on_recalled(term: Term) -> Iterable[str]:
    """Names of the scalars within ``term`` that come from recalled rows."""
    if isinstance(term, Sum):
        return [name for part in term.terms for name in _names_on_recalled(part)]
    if isinstance(term, Scaled):
        return _names_on_recalled(term.term)
    return getattr(term, "names", ()) if getattr(term, "reads", None) else ()


def _readable(source: Any) -> Mapping[str, Tensor]:
    """The rows of a store, or the class means of a memory that holds statistics."""
    if hasattr(source, "rows"):
        columns: Mapping[str, Tensor] = source.rows().columns
        return columns
    if hasattr(source, "means") and hasattr(source, "classes"):
        return {source.feature: source.means, source.label: source.classes}
    raise ValueError(f"source is {source!r}; expected one with rows() or with means and classes, to predict from")
