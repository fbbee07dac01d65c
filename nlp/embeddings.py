"""EmbeddingCache: embeddings on disk, so that a text is embedded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from ..core.vector_cache import VectorCache, cache_folder


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/memreplay/embeddings``, by default in ``~/.cache``."""
    return cache_folder("embeddings")


class EmbeddingCache:
    """A folder of embeddings, keyed by the text and by everything that they depend on; see `VectorCache`.

    Args:
        folder: for all encoders; each has a sub-folder of its own.
        key: names the encoder with its pooling, length and precision.
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self._vectors = VectorCache(folder, key)

    def __call__(self, texts: Sequence[str], embed: Callable[[list[str]], Tensor]) -> Tensor:
        """Embeddings (N, D), float32, of at least one text; ``embed`` makes those that are missing, each text once."""
        contents = [text.encode("utf-8", "surrogatepass") for text in texts]
        return self._vectors(contents, lambda rows: embed([texts[row] for row in rows]))
