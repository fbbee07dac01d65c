"""Embedding throughput: texts per second on one thread, beside sentence-transformers on the same texts.

256 of the BANKING77 test texts, all-MiniLM-L6-v2. All take turns, round by round. ``int8`` and ``bfloat16`` are timed
too, and a logistic regression on the float32 vectors of five shots is judged on vectors of all test texts in every
precision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ...core.heads import LogisticRegression
from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ..bundled import bundled_encoder, data_folder
from ..data import TextSet, read_labelled
from ..encoder import TextEncoder
from ..precision import Precision

ROUNDS = 5
TEXTS = 256
PRECISIONS: tuple[Precision, ...] = ("int8", "bfloat16")


def reproduce(*, seeds: int | None = None, data: Path | None = None, out: Path, only: Sequence[str] = ()) -> Results:
    """Times them and prints the table.

    Args:
        seeds: rounds; 5 by default.
        data: folder with ``banking77/fsid_*.csv``; by default ``$MEMREPLAY_DATA``.
        out: folder for the results.
        only: rows: ``float32``, ``sentence-transformers``, ``int8``, ``bfloat16``.

    Raises:
        ValueError: ``only`` names no row, or the data is not there.
    """
    known = ("float32", "sentence-transformers", *PRECISIONS)
    check_asked(only, known)
    folder = data_folder(data, "banking77")
    test = TextSet.of(*read_labelled(folder / "fsid_test.csv"))
    # a spread of intents, not the first few
    part = test.rows(torch.arange(0, len(test), len(test) // TEXTS)[:TEXTS])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        embed = {name: _embedder(name) for name in known if not only or name in only}
        seconds: dict[str, list[float]] = {name: [] for name in embed}
        for call in embed.values():
            call(list(part.texts[:16]))
        for _ in range(ROUNDS if seeds is None else seeds):
            for name, call in embed.items():
                began = time.perf_counter()
                call(list(part.texts))
                seconds[name].append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    results = Results("nlp/throughput", {"encoder": "all-MiniLM-L6-v2", "texts": len(part), "threads": 1})
    for name, measured in seconds.items():
        results.add(name, "texts per second", [len(part) / value for value in measured])
    if "float32" in embed:
        shots = TextSet.of(*read_labelled(folder / "fsid_train_5.csv"), classes=test.classes)
        rows = {"feature": embed["float32"](list(shots.texts)), "label": shots.labels}
        head = LogisticRegression().fit(rows, len(test.classes))
        exact = embed["float32"](list(test.texts))
        for name, call in embed.items():
            vectors = exact if name == "float32" else call(list(test.texts))
            with torch.no_grad():
                right = head(vectors).argmax(1) == test.labels
            results.add(name, "accuracy", [100 * float(right.double().mean())])
            cosine = torch.nn.functional.cosine_similarity(vectors, exact)
            results.add(name, "least cosine to float32", [float(cosine.min())])
    results.print()
    print(f"mean ± 95 % interval over the rounds; wrote {results.save(out)}")
    return results


def _embedder(name: str) -> Callable[[list[str]], torch.Tensor]:
    if name == "sentence-transformers":
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(bundled_encoder(), device="cpu")
        return lambda texts: torch.from_numpy(model.encode(texts))
    precision: Precision = "float32" if name == "float32" else "int8" if name == "int8" else "bfloat16"
    return TextEncoder.load(bundled_encoder(), precision=precision, device="cpu").embed
