"""TextAdapter: a text classifier that is saved, taught new classes and made to forget: an encoder, a head, a memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core import adapter as core
from ..core.batch import jagged, texts
from ..core.heads import LinearHead, LogisticRegression
from ..core.reporting.cases import Case, spread
from .data import TextSet, check_texts
from .encoder import TextEncoder
from .precision import Precision


@dataclass(frozen=True)
class Recipe(core.Recipe):
    """How an adapter learns; saved with it, so that classes added later are learned in the same way.

    Args:
        head: solves for the head; vectors of texts are told apart best with little penalty.
        readout: what the memory adds to the head.
        per_class: rows of each class that the memory holds at most.
        balanced: whether every class has the same say in the head, however many rows it has.
        solved_share: share of the solved head in the logits, beside the head that fine-tuning left, if there is one;
            None: one half, see `nlp.layers.solved_share`.
        seed: of the memory and of cross-validation.
        label_texts: whether the name of a class, read as a text, counts as one more example of it, unless it is a mere
            number.
    """

    head: LogisticRegression = field(default_factory=lambda: LogisticRegression(C=30.0))
    label_texts: bool = True


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


class TextAdapter(core.Adapter[TextEncoder]):
    """A classifier of texts on an encoder, with a memory of what it learned from; see `core.adapter.Adapter`.

    Args:
        encoder: from texts to vectors.
        recipe: how it learns.

    In three lines, once it is saved: ``adapter = TextAdapter.load(folder)``, ``adapter.add_classes(texts, labels)``,
    ``adapter.predict(["where is my card?"])``.
    """

    kind: ClassVar[str] = "memreplay text adapter"
    shown: ClassVar[str] = "text"
    recipe_type: ClassVar[type[core.Recipe]] = Recipe
    recipe: Recipe

    @property
    def halved(self) -> bool:
        """Whether vectors have two halves, see `Pooling.also`."""
        return self.encoder.pooling.also is not None

    def told(self, names: Sequence[str]) -> list[int]:
        """Positions of the classes whose names are examples of them."""
        return spoken(names) if self.recipe.label_texts else []

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
        used = set(data.names)
        added = [name for name in self.unknown(data.classes) if name in used]
        vectors = self.encoder.embed([*data.texts, *map(readable, added)], cache)
        rows = {"feature": vectors[: len(data)], "text": jagged(data.texts)}
        self.learn_rows(rows, data.names, added, vectors[len(data) :], tuned)

    def add_classes(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        """Teaches new classes from a few examples each, or old ones from more. Nothing is read but the memory.

        Raises:
            ValueError: an empty text, or as many labels as texts are expected. The adapter is unchanged.
        """
        self.learn(TextSet.of(texts, labels))

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
        answers = self.answers(self.encoder.embed(texts, cache), memories)
        return [
            TextPrediction(
                text,
                answer.label,
                answer.probability,
                tuple(Memory(row.shown, row.label, row.similarity) for row in answer.supports),
            )
            for text, answer in zip(texts, answers, strict=True)
        ]

    def current(self, encoder: TextEncoder) -> tuple[Tensor, Tensor]:
        """See `core.adapter.Adapter.current`; the memory has all of its texts."""
        held = texts(self.memory.rows()["text"])
        return torch.arange(len(held)), encoder.embed(held)

    def explained(self, data: TextSet, n: int = 24, cache: str | Path | None = None) -> list[Case]:
        """Predictions on texts of ``data`` that tell most, with their evidence, see `core.adapter.Adapter.cases`.

        Args:
            data: texts of classes that the adapter has; of many texts 256 are looked at, evenly spread.
            n: how many predictions, at most.
            cache: where embeddings are kept.
        """
        rows = spread(len(data), 256)
        asked = [data.texts[row] for row in rows]
        names = data.names
        return self.cases(self.encoder.embed(asked, cache), [names[row] for row in rows], asked, n=n) if rows else []

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

        def encoder_of(described: Mapping[str, Any], weights: dict[str, Tensor]) -> TextEncoder:
            if isinstance(encoder, TextEncoder):
                return encoder
            loaded = TextEncoder.of_description(described, encoder, device)
            if weights:
                loaded.set_tuned_weights(weights)
            return loaded

        adapter = TextAdapter.read(folder, encoder_of)
        if adapter.encoder is not encoder:
            adapter.encoder.set_precision(precision)
        return adapter


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
