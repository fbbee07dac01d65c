"""Few-shot text classification on the embeddings of a transformer, with a memory."""

from .adapter import Memory, Recipe, TextAdapter, TextPrediction
from .data import TextData, TextSet, read_labelled, read_texts
from .encoder import TextEncoder
from .expansion import Expansion
from .heads import LinearHead, LogisticRegression
from .pooling import Pooling
from .readout import MemoryReadout
from .tuning import Tuning
from .whitening import Whitening

__all__ = [
    "Expansion",
    "LinearHead",
    "LogisticRegression",
    "Memory",
    "MemoryReadout",
    "Pooling",
    "Recipe",
    "TextAdapter",
    "TextData",
    "TextEncoder",
    "TextPrediction",
    "TextSet",
    "Tuning",
    "Whitening",
    "read_labelled",
    "read_texts",
]
