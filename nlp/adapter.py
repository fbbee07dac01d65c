"""TextAdapter: a text classifier that is saved, taught new classes and made to forget: an encoder, a head, a memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.batch import Batch, concat, jagged, take, texts
from ..core.heads import LinearHead, LogisticRegression
from ..core.memory_readout import MemoryReadout
from ..core.retrievers import Nearest
from ..core.selection import ClassBalanced
from ..core.stores import Ragged, Store
from ..core.stores.files import read_save, write_save
from ..core.stores.keeping import Reservoir
from ..core.stores.spec import build
from .data import TextSet, check_texts
from .encoder import TextEncoder
from .precision import Precision
from .tuning import mean_head

KIND = "memreplay text adapter"


@dataclass(frozen=True)
class Recipe:
    """How an adapter learns; saved with it, so that classes added later are learned in the same way.

    Args:
        head: solves for the head.
        readout: what the memory adds to the head.
        label_texts: whether the name of a class, read as a text, counts as one more example of it, unless it is a mere
            number.
        per_class: rows of each class that the memory holds at most.
        seed: of the memory and of cross-validation.
    """

    head: LogisticRegression = field(default_factory=LogisticRegression)
    readout: MemoryReadout = field(default_factory=MemoryReadout)
    label_texts: bool = True
    per_class: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_class < 1:
            raise ValueError(f"per_class is {self.per_class}; expected at least 1 row")

    @staticmethod
    def of_json(saved: Mapping[str, Any]) -> Recipe:
        """What ``dataclasses.asdict`` made of a recipe."""
        parts = {"head": LogisticRegression(**saved["head"]), "readout": MemoryReadout(**saved["readout"])}
        return Recipe(**{**saved, **parts})


@dataclass(frozen=True)
class Memory:
    """A row of the memory that supports a prediction.

    Attributes:
        text: as it was learned.
        label: its class.
        similarity: to the text in question, a cosine.
    """

    text: str
    label: str
    similarity: float


@dataclass(frozen=True)
class TextPrediction:
    """What an adapter says about a text.

    Attributes:
        text: the text.
        label: its class; None where it resembles nothing in the memory enough to belong to one.
        probability: of the likeliest class.
        memories: what was learned of the most similar texts, the most similar first.
    """

    text: str
    label: str | None
    probability: float
    memories: tuple[Memory, ...]


class TextAdapter:
    """A classifier of texts on an encoder, with a memory of what it learned from.

    Classes are known by names; inside, each has a number that is never given to another. Old data is never needed
    again: what is learned later is learned together with the rows of the memory.

    Args:
        encoder: from texts to vectors.
        recipe: how it learns.

    In three lines, once it is saved: ``adapter = TextAdapter.load(folder)``, ``adapter.add_classes(texts, labels)``,
    ``adapter.predict(["where is my card?"])``.
    """

    def __init__(self, encoder: TextEncoder, recipe: Recipe | None = None) -> None:
        self.encoder = encoder
        self.recipe = recipe or Recipe()
        self.names: dict[int, str] = {}
        """The classes by number, ascending."""
        self.base: list[int] = []
        """The classes that were learned first."""
        self.head: LinearHead | None = None
        """From vectors to logits: the solved head, or the mean of it and of the head that fine-tuning left."""
        self.solved: LinearHead | None = None
        """What `Recipe.head` found; on the second half of vectors that have two, see `Pooling.also`."""
        self.tuned: LinearHead | None = None
        """The cosine head that the encoder was fine-tuned under, its scale in the weights; on the first half."""
        self.complete = True
        """Whether the memory still has every example that was ever learned from, but for those forgotten."""
        self.label_features = torch.empty(0)
        """The vectors (C, D) of the names of the classes."""
        self.threshold: float | None = None
        """Texts less similar than this to everything in the memory are out of scope; None: there is no such thing."""
        self.memory = Store(
            self.recipe.per_class,
            keep=ClassBalanced(Reservoir()),
            columns={"text": Ragged()},
            seed=self.recipe.seed,
            fingerprint=encoder.fingerprint(),
        )

    # -- learning -------------------------------------------------------------------------------------------------

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return list(self.names.values())

    def learn(self, data: TextSet, cache: str | Path | None = None, tuned: LinearHead | None = None) -> None:
        """Learns from the first texts, or from more; `add_classes` is the same for lists.

        Args:
            data: texts with labels. New labels become new classes, others teach more of the classes there are.
            cache: where embeddings are kept, see `TextEncoder.embed`.
            tuned: the head that `Tuning.tune` gave with the encoder, for the classes of ``data``, at first.

        Raises:
            ValueError: no texts, or an empty one. The adapter is unchanged.
        """
        if not len(data):
            raise ValueError("data has no texts; expected at least one")
        known = {name: number for number, name in self.names.items()}
        used = {data.classes[label] for label in data.labels.unique().tolist()}
        added = [name for name in data.classes if name in used and name not in known]
        first = 1 + max([*self.names, *_numbers_seen(self.memory)], default=-1)
        names = {**self.names, **{first + i: name for i, name in enumerate(added)}}
        known = {name: number for number, name in names.items()}

        vectors = self.encoder.embed([*data.texts, *(readable(name) for name in added)], cache)
        new: Batch = {
            "feature": vectors[: len(data)],
            "label": torch.tensor([known[name] for name in data.names]),
            "text": jagged(data.texts),
        }
        named = vectors[len(data) :]
        label_features = torch.cat([self.label_features, named]) if self.names else named
        memory = copy.deepcopy(self.memory)
        old = memory.rows().columns if len(memory) else None
        memory.resize(self.recipe.per_class * len(names))
        kept = int((memory.add(new) >= 0).sum())
        complete = self.complete and len(memory) == len(self.memory) + len(data) == len(self.memory) + kept
        if self.recipe.readout.share < 1:
            rows = new if old is None else concat([old, new])
            # where the memory has all that the head has seen, there is no need to hold on to the head
            self.solved = self._fit(rows, names, label_features, self.solved, prior=not self.complete)
            self.tuned = self._widened(new, names, label_features) if tuned is None else tuned
            self._join_heads()
        self.memory, self.names, self.label_features, self.complete = memory, names, label_features, complete
        self.base = self.base or list(names)

    def add_classes(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        """Teaches new classes from a few examples each, or old ones from more. Nothing is read but the memory.

        Raises:
            ValueError: an empty text, or as many labels as texts are expected. The adapter is unchanged.
        """
        self.learn(TextSet.of(texts, labels))

    def forget(self, label: str) -> int:
        """Removes a class with all that was learned of it: rows of the memory, weights of the head, its name.

        Where the memory still has every example, the head is solved anew without those of the class, as if they had
        never been; otherwise the weights of the other classes stay as they are. So do those of an encoder that was
        fine-tuned on the class: to be rid of its influence there, fine-tune anew. The next `save` replaces the last; a
        cache of embeddings, if one was used, is apart from it.

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
        if self.recipe.label_texts:
            told = torch.tensor(spoken(list(names.values())), dtype=torch.int64)
            feature, label = torch.cat([feature, label_features[told]]), torch.cat([label, told])
        batch = {"feature": self.encoder.pooling.parts(feature)[1], "label": label}
        return self.recipe.head.fit(batch, len(place), start, prior=prior, seed=self.recipe.seed)

    def _widened(self, rows: Batch, names: Mapping[int, str], label_features: Tensor) -> LinearHead | None:
        """The tuned head with the new classes, each at the mean of its vectors as the old ones were at first."""
        if self.tuned is None or len(names) == self.tuned.classes:
            return self.tuned
        scale = float(self.tuned.weight.detach().norm(dim=1).mean())
        means = []
        for place, number in list(enumerate(names))[self.tuned.classes :]:
            shots = torch.cat([rows["feature"][rows["label"] == number], label_features[place : place + 1]])
            means.append(F.normalize(self.encoder.pooling.parts(shots)[0].mean(0), dim=0))
        return self.tuned.with_rows(scale * torch.stack(means))

    def _join_heads(self) -> None:
        if self.solved is None:
            return
        solved, tuned = self.solved, self.tuned
        if self.encoder.pooling.also is not None:
            solved, tuned = solved.on_half(1), None if tuned is None else tuned.on_half(0)
        self.head = solved if tuned is None else mean_head(solved, tuned)

    # -- predicting -----------------------------------------------------------------------------------------------

    def predict(self, texts: Sequence[str], memories: int = 3, cache: str | Path | None = None) -> list[TextPrediction]:
        """Class, probability and supporting memories of each text.

        Args:
            texts: any number, none of them empty.
            memories: how many to tell of each.
            cache: where embeddings are kept.

        Raises:
            ValueError: an empty text, or nothing was learned yet.
        """
        check_texts(texts, "texts")
        if not len(texts):
            return []
        feature = self.encoder.embed(texts, cache)
        probability, place = self.probabilities(feature).max(1)
        similarity, slots = self.memory.search({"feature": feature}, max(1, memories), Nearest("feature"))
        held = self._held(slots)
        found = []
        for row, text in enumerate(texts):
            near = [
                Memory(held[slot][0], held[slot][1], round(value, 4))
                for value, slot in zip(similarity[row].tolist(), slots[row].tolist(), strict=True)
            ]
            inside = self.threshold is None or float(similarity[row, 0]) >= self.threshold
            label = self.classes[int(place[row])] if inside else None
            found.append(TextPrediction(text, label, round(float(probability[row]), 4), tuple(near[:memories])))
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

    def similarity(self, feature: Tensor) -> Tensor:
        """Cosine (B,) of vectors (B, D) to the row of the memory that is nearest to each: low where out of scope."""
        return self.memory.search({"feature": feature}, 1, Nearest("feature"))[0][:, 0]

    def _held(self, slots: Tensor) -> dict[int, tuple[str, str]]:
        """Text and class of some slots of the memory."""
        index = slots.unique()
        rows = self.memory.rows()
        found = take({"text": rows["text"], "label": rows["label"]}, index)
        names = [self.names[number] for number in found["label"].tolist()]
        return dict(zip(index.tolist(), zip(texts(found["text"]), names, strict=True), strict=True))

    # -- saving ---------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Writes the adapter: safetensors and a manifest, in one step; the last save stays whole until then.

        The encoder is written down by its name and fingerprint; weights that were fine-tuned are saved.

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
            "kind": KIND,
            "encoder": self.encoder.description(),
            "recipe": asdict(self.recipe),
            "classes": {str(number): name for number, name in self.names.items()},
            "base": self.base,
            "threshold": self.threshold,
            "complete": self.complete,
            "memory": state["meta"],
        }
        write_save(Path(folder), tensors, meta)

    @staticmethod
    def load(
        folder: str | Path,
        encoder: str | Path | TextEncoder | None = None,
        *,
        precision: Precision = "float32",
        device: torch.device | str | None = None,
    ) -> TextAdapter:
        """Reads an adapter written by `save`.

        Args:
            folder: where it was saved.
            encoder: where the encoder is now, if not where it was; or the encoder itself.
            precision: of an encoder that is loaded.
            device: likewise; by default the accelerator, where there is one.

        Raises:
            FileNotFoundError: there is no save.
            ValueError: the save is damaged or something else, or the encoder is not the one it was made with.
        """
        tensors, meta = read_save(Path(folder))
        if meta.get("kind") != KIND:
            raise ValueError(f"{folder} holds no text adapter; its kind is {meta.get('kind')!r}")
        try:
            described = meta["encoder"]
            model = encoder if isinstance(encoder, TextEncoder) else _encoder(tensors, described, encoder, device)
            if model.fingerprint() != described["fingerprint"]:
                raise ValueError(
                    f"the encoder {model.name} has the fingerprint {model.fingerprint()}; the adapter was made "
                    f"with {described['name']}, {described['fingerprint']}: weights, tokens, pooling or length differ"
                )
            if model is not encoder:
                model.set_precision(precision)
            adapter = TextAdapter(model, Recipe.of_json(meta["recipe"]))
            adapter.names = {int(number): name for number, name in meta["classes"].items()}
            adapter.base, adapter.threshold = list(meta["base"]), meta["threshold"]
            adapter.complete = bool(meta["complete"])
            adapter.memory = _store(tensors, meta["memory"])
            adapter.label_features = tensors["label_features"]
            adapter.solved, adapter.tuned = _head(tensors, "solved."), _head(tensors, "tuned.")
            adapter._join_heads()
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"the adapter in {folder} is damaged: {error!r}") from error
        return adapter

    def __repr__(self) -> str:
        return f"TextAdapter({len(self.names)} classes, {self.encoder.name}, {self.memory!r})"


def _store(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Store:
    """The memory among the tensors of a save."""
    columns = {name: build(kind, "columns") for name, kind in meta["kinds"].items()}
    store = Store(meta["capacity"], keep=build(meta["keep"], "keep"), columns=columns, seed=meta["seed"])
    store.load_state_dict({"tensors": _within(tensors, "memory."), "meta": meta})
    return store


def _head(tensors: Mapping[str, Tensor], prefix: str) -> LinearHead | None:
    """A head among the tensors of a save, if it is there."""
    own = _within(tensors, prefix)
    return LinearHead.of_tensors(own) if own else None


def _encoder(
    tensors: Mapping[str, Tensor],
    described: Mapping[str, Any],
    name: str | Path | None,
    device: torch.device | str | None,
) -> TextEncoder:
    """The encoder of a save, with the weights among its tensors that were fine-tuned."""
    encoder = TextEncoder.of_description(described, name, device)
    tuned = _within(tensors, "encoder.")
    if tuned:
        encoder.set_tuned_weights(tuned)
    return encoder


def _within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start so, by the rest of their names."""
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}


def _numbers_seen(memory: Store) -> list[int]:
    """Numbers of classes that were forgotten, which are not given again."""
    return [number for entry in memory.audit for number in entry["where"].get("label", [])]


def spoken(names: Sequence[str]) -> list[int]:
    """The positions of names that have a letter, and so might say something: ``"7"`` does not.

    >>> spoken(["card_arrival", "7"])
    [0]
    """
    return [place for place, name in enumerate(names) if any(map(str.isalpha, name))]


def readable(name: str) -> str:
    """The name of a class as a text: ``"card_arrival"`` as ``"card arrival"``.

    >>> readable("Refund_not_showing_up")
    'refund not showing up'
    """
    spaced = "".join(" " if mark in "_-/" else mark for mark in name)
    return " ".join(spaced.split()).strip(" ?").lower() or name
