"""Relations: sentences with two marked entities, as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .embeddings import EmbeddingCache
from .encoder import TextEncoder

HEAD, TAIL = "@", "#"
_BATCH = 16


@dataclass(frozen=True)
class Mention:
    """A sentence with the two entities that a relation holds between.

    Attributes:
        words: of the sentence.
        head: positions of the words of the first entity.
        tail: of the second.
    """

    words: tuple[str, ...]
    head: tuple[int, ...]
    tail: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, places in (("head", self.head), ("tail", self.tail)):
            if not places or not all(0 <= place < len(self.words) for place in places):
                raise ValueError(f"{name} is {places}; expected positions among {len(self.words)} words")

    def marked(self) -> tuple[list[str], tuple[set[int], set[int], set[int]]]:
        """The words with markers around the entities (Baldini Soares et al., Matching the Blanks, ACL 2019; punctuation
        serves as markers, which needs no new tokens, as in Zhou and Chen, An Improved Baseline for Sentence-level
        Relation Extraction, 2022), and the new positions of the first entity and of the second, markers included, and
        of the words between them.

        >>> Mention(("rome", "is", "in", "italy"), (0,), (3,)).marked()
        (['@', 'rome', '@', 'is', 'in', '#', 'italy', '#'], ({0, 1, 2}, {5, 6, 7}, {3, 4}))
        """
        words: list[str] = []
        spans: dict[str, set[int]] = {HEAD: set(), TAIL: set()}
        for place, word in enumerate(self.words):
            starting = [m for m, where in ((HEAD, self.head), (TAIL, self.tail)) if place == min(where)]
            ending = [m for m, where in ((TAIL, self.tail), (HEAD, self.head)) if place == max(where)]
            inside = [m for m, where in ((HEAD, self.head), (TAIL, self.tail)) if min(where) <= place <= max(where)]
            for mark in starting:
                spans[mark].add(len(words))
                words.append(mark)
            for mark in inside:
                spans[mark].add(len(words))
            words.append(word)
            for mark in ending:
                spans[mark].add(len(words))
                words.append(mark)
        head, tail = spans[HEAD], spans[TAIL]
        between = set(range(min(max(head), max(tail)) + 1, max(min(head), min(tail))))
        return words, (head, tail, between)


def embed_mentions(encoder: TextEncoder, mentions: Sequence[Mention], cache: str | Path | None = None) -> Tensor:
    """Vectors (N, 3 D) of length 1: the means over the first entity, the second and the words between them, of the
    layers that the encoder pools, each brought to the same length.

    What was cut off with the end of a long sentence, or is not there, counts as the mean over the sentence.

    Args:
        encoder: reads the sentences.
        mentions: N of them.
        cache: a folder where vectors are kept, see `EmbeddingCache`.
    """
    if cache is None or not len(mentions):
        return _embed(encoder, mentions)
    by_key = {repr(mention): mention for mention in mentions}
    kept = EmbeddingCache(cache, f"mentions {encoder.fingerprint()} {encoder.precision}")
    return kept([repr(mention) for mention in mentions], lambda keys: _embed(encoder, [by_key[key] for key in keys]))


def _embed(encoder: TextEncoder, mentions: Sequence[Mention]) -> Tensor:
    marked = [mention.marked() for mention in mentions]
    order = sorted(range(len(marked)), key=lambda row: len(marked[row][0]))
    found = torch.empty(len(marked), 3 * encoder.dim)
    layers = encoder.pooling.layers or (-1,)
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        tokens = encoder.tokenizer(
            [marked[row][0] for row in rows],
            is_split_into_words=True,
            truncation=True,
            max_length=encoder.max_length,
            padding=True,
            return_tensors="pt",
        )
        mask = tokens["attention_mask"]
        with torch.inference_mode():
            states = encoder.body(
                input_ids=tokens["input_ids"].to(encoder.device),
                attention_mask=mask.to(encoder.device),
                output_hidden_states=True,
            ).hidden_states
            hidden = torch.stack([states[layer] for layer in layers]).mean(0).float().cpu()
        parts = []
        for part in range(3):
            places = [
                [place in marked[row][1][part] for place in tokens.word_ids(number)] for number, row in enumerate(rows)
            ]
            span = torch.tensor(places).long()
            span = torch.where(span.sum(1, keepdim=True) > 0, span, mask)
            parts.append(F.normalize((hidden * span[:, :, None]).sum(1) / span.sum(1, keepdim=True), dim=1))
        found[rows] = torch.cat(parts, 1) / len(parts) ** 0.5
    return found
