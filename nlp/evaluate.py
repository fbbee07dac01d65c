"""Evaluate: the accuracy of a saved adapter on labelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..arguments import command
from ..core.protocols.metrics import accuracy
from ..core.reporting import Results
from ..core.reporting.cases import save_cases
from .adapter import TextAdapter
from .data import Judged, TextSet
from .precision import Precision
from .scope import area_under_curve


def evaluate(
    adapter: Path,
    data: Judged,
    encoder: str | None = None,
    precision: Precision = "float32",
    cache: Path | None = None,
    out: Path | None = None,
) -> Results:
    """Measures a saved adapter on labelled texts.

    Args:
        adapter: its folder.
        data: the texts to be judged on.
        encoder: where the encoder is, if not where it was when the adapter was saved.
        precision: of the encoder.
        cache: folder where embeddings are kept; null: nowhere.
        out: folder for ``results.json``, and for predictions with their evidence; null: nothing is written.
    """
    loaded = TextAdapter.load(adapter, encoder, precision=precision)
    results = Results("nlp/evaluate", {"adapter": str(adapter), "precision": precision})
    results.memory_bytes = loaded.memory.nbytes
    inside, outside = data.load(loaded.classes)
    judge(results, "test", loaded, inside, outside, cache)
    if out is not None:
        results.save(out)
        save_cases(loaded.explained(inside, cache=cache), out)
    results.print()
    return results


def judge(
    results: Results, name: str, adapter: TextAdapter, inside: TextSet, outside: Sequence[str], cache: Path | None
) -> None:
    """Adds to ``results`` what ``adapter`` gets right, in percent: ``accuracy`` over the texts of its classes, all of
    which are given one; and where there are texts out of scope, ``out of scope auroc``, and with a threshold the share
    of texts ``in scope kept`` and ``out of scope told``.

    Args:
        results: to add to.
        name: of the rows.
        adapter: it has the classes of ``inside``, in that order.
        inside: texts of its classes.
        outside: texts of none.
        cache: folder where embeddings are kept.
    """
    feature = adapter.encoder.embed(inside.texts, cache)
    results.add(name, "accuracy", [accuracy(adapter.probabilities(feature).argmax(1), inside.labels)])
    near = adapter.similarity(feature)
    far = adapter.similarity(adapter.encoder.embed(outside, cache)) if len(outside) else None
    if far is not None:
        results.add(name, "out of scope auroc", [area_under_curve(near, far)])
    if adapter.threshold is not None:
        results.add(name, "in scope kept", [100 * float((near >= adapter.threshold).double().mean())])
        if far is not None:
            results.add(name, "out of scope told", [100 * float((far < adapter.threshold).double().mean())])


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    command(evaluate, "memreplay nlp evaluate", args)


if __name__ == "__main__":
    main()
