"""Adapter: a classifier that is saved, taught new classes and made to forget: an encoder, a head, a memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import Batch, concat, take, texts
from .heads import LinearHead, LogisticRegression, equal_say
from .memory_readout import MemoryReadout
from .readout import KNearest
from .reporting.cases import Case, telling
from .reporting.evidence import Evidence, explain
from .reporting.picture import data_uri
from .reporting.staleness import Staleness, staleness
from .retrievers import Nearest
from .selection import ClassBalanced
from .stores import Ragged, Rows, Store
from .stores.files import read_save, write_save
from .stores.keeping import Reservoir


class Encoder(Protocol):
    """What turns inputs into vectors, as far as an adapter needs to know it."""

    @property
    def name(self) -> str:
        """Where it came from, for people."""
        ...

    def fingerprint(self) -> str:
        """Equal if and only if the vectors are."""
        ...

    def description(self) -> dict[str, Any]:
        """What is needed to make it anew, JSON-able: ``name`` and ``fingerprint`` among it."""
        ...

    def tuned_weights(self) -> dict[str, Tensor]:
        """Weights to be saved, by name."""
        ...


E = TypeVar("E", bound=Encoder)


@dataclass(frozen=True)
class Recipe:
    """How an adapter learns; saved with it, so that classes added later are learned in the same way.

    Args:
        head: solves for the head.
        readout: what the memory adds to the head.
        per_class: rows of each class that the memory holds at most.
        balanced: whether every class has the same say in the head, however many rows it has.
        solved_share: share of the solved head in the logits, beside the head that fine-tuning left, if there is one;
            None: one half.
        seed: of the memory and of cross-validation.
    """

    head: LogisticRegression = field(default_factory=LogisticRegression)
    readout: MemoryReadout = field(default_factory=MemoryReadout)
    per_class: int = 100
    balanced: bool = False
    solved_share: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_class < 1:
            raise ValueError(f"per_class is {self.per_class}; expected at least 1 row")
        if self.solved_share is not None and not 0 <= self.solved_share <= 1:
            raise ValueError(f"solved_share is {self.solved_share}; expected a number from 0 to 1, or None")

    @classmethod
    def of_json(cls, saved: Mapping[str, Any]) -> Self:
        """What ``dataclasses.asdict`` made of a recipe."""
        parts = {"head": LogisticRegression(**saved["head"]), "readout": MemoryReadout(**saved["readout"])}
        return cls(**{**saved, **parts})


@dataclass(frozen=True)
class Support:
    """A row of the memory that supports an answer.

    Attributes:
        shown: what the row is for people: a text, the file of an image.
        label: its class.
        similarity: to what was asked, a cosine.
    """

    shown: str
    label: str
    similarity: float


@dataclass(frozen=True)
class Answer:
    """What an adapter says about a vector.

    Attributes:
        label: its class; None where it resembles nothing in the memory enough to belong to one.
        probability: of the likeliest class.
        supports: the rows of the memory that are most similar, the most similar first.
    """

    label: str | None
    probability: float
    supports: tuple[Support, ...]


class Adapter(Generic[E]):
    """A classifier on the vectors of an encoder, with a memory of what it learned from.

    Classes are known by names; inside, each has a number that is never given to another. Old data is never needed
    again: what is learned later is learned together with the rows of the memory. A domain adds the encoder, and what a
    row of the memory is for people.

    Args:
        encoder: from inputs to vectors.
        recipe: how it learns.
    """

    kind: ClassVar[str]
    """Names the domain's adapters in their saves."""
    shown: ClassVar[str]
    """The column of the memory with the text that a row is known by."""
    recipe_type: ClassVar[type[Recipe]] = Recipe

    def __init__(self, encoder: E, recipe: Recipe | None = None) -> None:
        self.encoder = encoder
        self.recipe = recipe or self.recipe_type()
        self.names: dict[int, str] = {}
        """The classes by number, ascending."""
        self.base: list[int] = []
        """The classes that were learned first."""
        self.head: LinearHead | None = None
        """From vectors to logits: the solved head, or that and the tuned one by `Recipe.solved_share`."""
        self.solved: LinearHead | None = None
        """What `Recipe.head` found; on the second half of vectors that have two, if there is a tuned head."""
        self.tuned: LinearHead | None = None
        """The head that the encoder was fine-tuned under, a linear one; on the first half of vectors that have two."""
        self.complete = True
        """Whether the memory still has every example that was ever learned from, but for those forgotten."""
        self.label_features = torch.empty(0)
        """The vectors (C, D) of the names of the classes, where names have any."""
        self.threshold: float | None = None
        """Vectors less similar than this to all in the memory are out of scope; None: there is no such thing."""
        self.memory = Store(
            self.recipe.per_class,
            keep=ClassBalanced(Reservoir()),
            columns={self.shown: Ragged()},
            seed=self.recipe.seed,
            fingerprint=encoder.fingerprint(),
        )

    # -- what a domain may do differently --------------------------------------------------------------------------

    @property
    def halved(self) -> bool:
        """Whether vectors have two halves of equal length. A tuned head then reads the first and the solved one beside
        it the second; a solved head alone reads both."""
        return False

    def told(self, names: Sequence[str]) -> list[int]:
        """Positions of the classes of which the vector of the name counts as one more example."""
        return []

    # -- learning -------------------------------------------------------------------------------------------------

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return list(self.names.values())

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that are no classes yet."""
        known = set(self.classes)
        return [name for name in names if name not in known]

    def learn_rows(
        self,
        rows: Batch,
        labels: Sequence[str],
        added: Sequence[str],
        named: Tensor | None = None,
        tuned: LinearHead | None = None,
        head: LinearHead | None = None,
    ) -> None:
        """Learns from the first vectors, or from more, together with the memory.

        Args:
            rows: ``feature`` (N, D), the column `shown`, and whatever else the memory shall hold.
            labels: the name of the class of each.
            added: the classes among them that are new, in the order of their numbers.
            named: a vector for the name of each of these.
            tuned: the head that fine-tuning left, for the classes of the rows, at first.
            head: one that was trained for all classes; it is taken as it is, and held on to in what comes later.

        Raises:
            ValueError: no rows. The adapter is unchanged.
        """
        if not len(labels):
            raise ValueError("there is nothing to learn; expected at least one example")
        first = 1 + max([*self.names, *_numbers_seen(self.memory)], default=-1)
        names = {**self.names, **{first + i: name for i, name in enumerate(added)}}
        number = {name: number for number, name in names.items()}
        new: Batch = {**rows, "label": torch.tensor([number[name] for name in labels])}
        label_features = self.label_features
        if named is not None:
            label_features = torch.cat([label_features, named]) if self.names else named
        memory = copy.deepcopy(self.memory)
        old = memory.rows().columns if len(memory) else None
        memory.resize(self.recipe.per_class * len(names))
        kept = int((memory.add(new) >= 0).sum())
        complete = self.complete and len(memory) == len(self.memory) + len(labels) == len(self.memory) + kept
        if self.recipe.readout.share < 1:
            held = new if old is None else concat([old, new])
            # where the memory has all that the head has seen, there is no need to hold on to the head
            start, prior = self.solved, not self.complete
            self.tuned = self._widened(new, names, label_features) if tuned is None else tuned
            self.solved = self._fit(held, names, label_features, start, prior=prior) if head is None else head
            self._join_heads()
        self.memory, self.names, self.label_features = memory, names, label_features
        self.complete = complete and head is None
        self.base = self.base or list(names)

    def forget(self, label: str) -> int:
        """Removes a class with all that was learned of it: rows of the memory, weights of the head, its name.

        Where the memory still has every example, the head is solved anew without those of the class, as if they had
        never been; otherwise the weights of the other classes stay as they are. So do those of an encoder that was
        fine-tuned on the class: to be rid of its influence there, fine-tune anew. The next `save` replaces the last; a
        cache of features, if one was used, is apart from it.

        Returns:
            Rows that left the memory.

        Raises:
            KeyError: there is no such class.
            ValueError: it is the only one.
        """
        if label not in self.names.values():
            raise KeyError(f"label is {label!r}; expected one of the classes {self.classes}")
        if len(self.names) == 1:
            raise ValueError(f"label is {label!r}, the only class; expected another to be left")
        number = next(number for number, name in self.names.items() if name == label)
        left = torch.tensor([place for place, other in enumerate(self.names) if other != number])
        gone = self.memory.forget(label=number)
        if len(self.label_features):
            self.label_features = self.label_features[left].clone()
        del self.names[number]
        if self.solved is not None and self.complete:
            self.solved = self._fit(self.memory.rows().columns, self.names, self.label_features, None)
        elif self.solved is not None:
            self.solved = self.solved.of_classes(left)
        self.tuned = None if self.tuned is None else self.tuned.of_classes(left)
        self._join_heads()
        self.base = [other for other in self.base if other != number]
        return gone

    def forget_all(self, labels: Sequence[str]) -> str:
        """Removes several classes, or none where one of them is not there; what happened, for people.

        Raises:
            ValueError: a name that is no class, or nothing would be left.
        """
        for label in labels:
            if label not in self.names.values():
                raise ValueError(f"label is {label!r}; expected one of the classes {self.classes}")
        if not set(self.classes) - set(labels):
            raise ValueError(f"label is {list(labels)}, all the classes there are; expected one to be left")
        rows = sum(self.forget(label) for label in dict.fromkeys(labels))
        return f"forgot {', '.join(labels)} and {rows} rows of the memory; {len(self.names)} classes are left"

    def _fit(
        self,
        rows: Batch,
        names: Mapping[int, str],
        label_features: Tensor,
        start: LinearHead | None,
        *,
        prior: bool = False,
    ) -> LinearHead:
        """The head over the classes ``names``, from rows with their numbers as labels."""
        place = {number: i for i, number in enumerate(names)}
        feature = rows["feature"]
        label = torch.tensor([place[number] for number in rows["label"].tolist()])
        if told := self.told(list(names.values())):
            position = torch.tensor(told, dtype=torch.int64)
            feature, label = torch.cat([feature, label_features[position]]), torch.cat([label, position])
        read = feature if self.tuned is None else self._parts(feature)[1]
        batch = {"feature": read, "label": label}
        if self.recipe.balanced:
            batch["weight"] = equal_say(label)
        return self.recipe.head.fit(batch, len(place), start, prior=prior, seed=self.recipe.seed)

    def _widened(self, rows: Batch, names: Mapping[int, str], label_features: Tensor) -> LinearHead | None:
        """The tuned head with the new classes, each at the mean of its vectors as the old ones were at first."""
        if self.tuned is None or len(names) == self.tuned.classes:
            return self.tuned
        scale = float(self.tuned.weight.detach().norm(dim=1).mean())
        means = []
        for place, number in list(enumerate(names))[self.tuned.classes :]:
            shots = torch.cat([rows["feature"][rows["label"] == number], label_features[place : place + 1]])
            means.append(F.normalize(self._parts(shots)[0].mean(0), dim=0))
        return self.tuned.with_rows(scale * torch.stack(means))

    def _parts(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Of vectors (B, D), what the tuned head reads, and what the solved one beside it does."""
        if not self.halved:
            return feature, feature
        first, second = (feature * math.sqrt(2)).chunk(2, dim=1)
        return first, second

    def _join_heads(self) -> None:
        if self.solved is None:
            return
        share = 0.5 if self.recipe.solved_share is None else self.recipe.solved_share
        if self.tuned is None:
            self.head = self.solved
        elif self.halved:
            self.head = self.solved.on_half(1).mean_with(self.tuned.on_half(0), share)
        else:
            self.head = self.solved.mean_with(self.tuned, share)

    # -- answering ------------------------------------------------------------------------------------------------

    def answers(self, feature: Tensor, memories: int = 3) -> list[Answer]:
        """Class, probability and supporting rows of the memory for each of the vectors (B, D).

        Args:
            feature: of the encoder.
            memories: how many to tell of each.

        Raises:
            ValueError: nothing was learned yet.
        """
        probability, place = self.probabilities(feature).max(1)
        similarity, slots = self.memory.search({"feature": feature}, max(1, memories), Nearest("feature"))
        held = self._held(slots)
        found = []
        for row in range(len(feature)):
            near = [
                Support(*held[slot], round(value, 4))
                for value, slot in zip(similarity[row].tolist(), slots[row].tolist(), strict=True)
            ]
            inside = self.threshold is None or float(similarity[row, 0]) >= self.threshold
            label = self.classes[int(place[row])] if inside else None
            found.append(Answer(label, round(float(probability[row]), 4), tuple(near[:memories])))
        return found

    def probabilities(self, feature: Tensor) -> Tensor:
        """Probabilities (B, C) of the classes, in the order of `classes`, for vectors (B, D).

        Raises:
            ValueError: nothing was learned yet.
        """
        if not len(self.memory):
            raise ValueError("the adapter has learned nothing; expected learn(...) or load(...) first")
        rows = self.memory.rows().columns
        return self.recipe.readout.probabilities(feature, rows, list(self.names), self.base, self.head)

    def evidence(self, feature: Tensor) -> Evidence:
        """The rows of the memory that speak for and against what is predicted for vectors (B, D): the vote of the
        nearest, as `MemoryReadout.by` ``"nearest"`` takes it, whatever else the prediction rests on.

        Raises:
            ValueError: nothing was learned yet.
        """
        predicted = torch.tensor(list(self.names))[self.probabilities(feature).argmax(1)]
        readout = self.recipe.readout
        by = KNearest(readout.k, readout.temperature) if readout.by == "nearest" else KNearest(readout.k)
        return explain(self.memory.rows(), feature, by, predicted)

    def cases(
        self,
        feature: Tensor,
        truth: Sequence[str],
        asked: Sequence[str],
        pictures: Tensor | None = None,
        n: int = 24,
    ) -> list[Case]:
        """Those of the predictions that tell most, see `telling`, with their evidence.

        Args:
            feature: of the rows judged, (B, D).
            truth: their classes.
            asked: what each is for people: a text, the name of an image.
            pictures: (B, C, H, W), of images.
            n: how many, at most.
        """
        if not len(feature):
            return []
        probability, place = self.probabilities(feature).max(1)
        label = [self.classes[i] for i in place.tolist()]
        right = torch.tensor([one == other for one, other in zip(label, truth, strict=True)])
        chosen = telling(right, probability, n)
        found = self.evidence(feature[chosen])
        return [
            Case(
                asked[row],
                None if pictures is None else data_uri(pictures[row], 96),
                truth[row],
                label[row],
                round(float(probability[row]), 4),
                {**found.told(query), "memory": "memory."},
            )
            for query, row in enumerate(chosen)
        ]

    def current(self, encoder: E) -> tuple[Tensor, Tensor]:
        """Positions (n,) of the rows of the memory whose inputs can still be had, and the vectors (n, D) that
        ``encoder`` gives for these."""
        raise TypeError(f"{type(self).__name__} must override current")

    def staleness(self, encoder: E | None = None) -> Staleness:
        """How far the vectors in the memory are from those that an encoder gives today for the same inputs.

        Args:
            encoder: by default the adapter's own.

        Raises:
            ValueError: of no row the input can be had, or the vectors differ in length.
        """
        rows = self.memory.rows()
        at, now = self.current(encoder or self.encoder)
        if not len(at):
            raise ValueError(f"the memory has {len(rows)} rows, of which no input can be read; expected at least one")
        columns = {"at": torch.arange(len(at)), "feature": rows["feature"][at], "label": rows["label"][at]}
        return staleness(Rows(columns, rows.slots[at], rows.ids[at]), lambda index: now[index], read="at")

    def similarity(self, feature: Tensor) -> Tensor:
        """Cosine (B,) of vectors (B, D) to the row of the memory that is nearest to each: low where out of scope."""
        return self.memory.search({"feature": feature}, 1, Nearest("feature"))[0][:, 0]

    def _held(self, slots: Tensor) -> dict[int, tuple[str, str]]:
        """What is shown of some slots of the memory, and their classes."""
        index = slots.unique()
        rows = self.memory.rows()
        found = take({self.shown: rows[self.shown], "label": rows["label"]}, index)
        names = [self.names[number] for number in found["label"].tolist()]
        return dict(zip(index.tolist(), zip(texts(found[self.shown]), names, strict=True), strict=True))

    # -- saving ---------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Writes the adapter: safetensors and a manifest, in one step; the last save stays whole until then.

        The encoder is written down by its description and fingerprint, and with the weights that it wants to be saved.

        Raises:
            OSError: the folder cannot be written.
        """
        state = self.memory.state_dict()
        tensors = {f"memory.{name}": values for name, values in state["tensors"].items()}
        tensors["label_features"] = self.label_features
        for name, head in (("solved", self.solved), ("tuned", self.tuned)):
            if head is not None:
                tensors |= {f"{name}.{parameter}": values for parameter, values in head.tensors().items()}
        tensors |= {f"encoder.{name}": values for name, values in self.encoder.tuned_weights().items()}
        meta = {
            "kind": self.kind,
            "encoder": self.encoder.description(),
            "recipe": asdict(self.recipe),
            "classes": {str(number): name for number, name in self.names.items()},
            "base": self.base,
            "threshold": self.threshold,
            "complete": self.complete,
            "memory": state["meta"],
        }
        write_save(Path(folder), tensors, meta)

    @classmethod
    def read(cls, folder: str | Path, encoder_of: Callable[[Mapping[str, Any], dict[str, Tensor]], E]) -> Self:
        """Reads an adapter written by `save`.

        Args:
            folder: where it was saved.
            encoder_of: makes the encoder from its description and the weights that were saved.

        Raises:
            FileNotFoundError: there is no save.
            ValueError: the save is damaged or something else, or the encoder is not the one it was made with.
        """
        tensors, meta = read_save(Path(folder))
        if meta.get("kind") != cls.kind:
            raise ValueError(f"{folder} holds no {cls.kind}; its kind is {meta.get('kind')!r}")
        try:
            described = meta["encoder"]
            encoder = encoder_of(described, _within(tensors, "encoder."))
            if encoder.fingerprint() != described["fingerprint"]:
                raise ValueError(
                    f"the encoder {encoder.name} has the fingerprint {encoder.fingerprint()}; the adapter was made "
                    f"with {described['name']}, {described['fingerprint']}: weights or preprocessing differ"
                )
            adapter = cls(encoder, cls.recipe_type.of_json(meta["recipe"]))
            adapter.names = {int(number): name for number, name in meta["classes"].items()}
            adapter.base, adapter.threshold = list(meta["base"]), meta["threshold"]
            adapter.complete = bool(meta["complete"])
            adapter.memory = Store.of_state({"tensors": _within(tensors, "memory."), "meta": meta["memory"]})
            adapter.label_features = tensors["label_features"]
            adapter.solved, adapter.tuned = (_head(_within(tensors, f"{name}.")) for name in ("solved", "tuned"))
            adapter._join_heads()
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"the adapter in {folder} is damaged: {error!r}") from error
        return adapter

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.names)} classes, {self.encoder.name}, {self.memory!r})"


def _head(tensors: dict[str, Tensor]) -> LinearHead | None:
    """A head of a save, if it is there."""
    return LinearHead.of_tensors(tensors) if tensors else None


def _within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start so, by the rest of their names."""
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}


def _numbers_seen(memory: Store) -> list[int]:
    """Numbers of classes that were forgotten, which are not given again."""
    return [number for entry in memory.audit for number in entry["where"].get("label", [])]
