"""Predict: labels for texts from a file or standard input, as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ..arguments import at_least, command
from .adapter import TextAdapter, TextPrediction
from .data import read_texts
from .precision import Precision


def predict(
    adapter: Path,
    input: Path | None = None,
    text: str = "text",
    memories: int = 3,
    encoder: str | None = None,
    precision: Precision = "float32",
    batch_size: int = 256,
    out: Path | None = None,
) -> None:
    """Labels texts, one JSON object per text: text, label, probability and the memories that support it.

    The label is null for a text that is out of scope, and for a blank line.

    Args:
        adapter: its folder.
        input: a table, or a file with a text per line; null: standard input, a text per line.
        text: the column of a table.
        memories: how many to tell of each text.
        encoder: where the encoder is, if not where it was when the adapter was saved.
        precision: of the encoder.
        batch_size: texts at a time; with 1, every line of standard input is answered before the next is read.
        out: a file to write to; null: standard output.
    """
    at_least("batch_size", batch_size, 1)
    at_least("memories", memories, 0)
    loaded = TextAdapter.load(adapter, encoder, precision=precision)
    lines = iter(read_texts(input, text)) if input is not None else _lines(sys.stdin.buffer)
    with ExitStack() as files:
        target = sys.stdout if out is None else files.enter_context(out.open("w", encoding="utf-8"))
        while part := list(islice(lines, batch_size)):
            for prediction in label_lines(loaded, part, memories):
                print(json.dumps(asdict(prediction), ensure_ascii=False), file=target)
            target.flush()


def label_lines(adapter: TextAdapter, lines: Sequence[str], memories: int = 3) -> list[TextPrediction]:
    """One prediction per line; a blank line has none to speak of."""
    found = iter(adapter.predict([line for line in lines if line.strip()], memories))
    return [next(found) if line.strip() else TextPrediction(line, None, 0.0, ()) for line in lines]


def _lines(stream: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"standard input is not UTF-8 in line {number}: {error}") from None


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    command(predict, "memreplay nlp predict", args)


if __name__ == "__main__":
    main()
