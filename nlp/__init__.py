"""Few-shot text classification on the embeddings of a transformer, with a memory."""

from ..core.expansion import Expansion
from ..core.heads import LinearHead, LogisticRegression
from ..core.memory_readout import MemoryReadout
from ..core.whitening import Whitening
from .adapter import Memory, Recipe, TextAdapter, TextPrediction
from .data import TextData, TextSet, read_labelled, read_texts
from .encoder import TextEncoder
from .pooling import Pooling
from .tuning import Tuning

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
