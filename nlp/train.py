"""Train: a text classifier from labelled texts, a few of each class or many.

Run as ``memreplay nlp train`` or ``accelerate launch -m memreplay.nlp.train``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from ..arguments import Parser, run
from ..core.reporting import Results
from ..core.training import new_accelerator
from .adapter import Recipe, TextAdapter, readable
from .data import TextData
from .embeddings import default_cache
from .encoder import TextEncoder
from .evaluate import judge
from .layers import choose_layers
from .pooling import Token
from .precision import Precision
from .scope import choose_threshold
from .tuning import Tuning


def train(
    encoder: str,
    data: TextData,
    recipe: Recipe = Recipe(),  # noqa: B008 (immutable)
    tuning: Tuning | None = Tuning(),  # noqa: B008 (immutable)
    pooling: Token | None = None,
    layers: list[int] | None = None,
    max_length: int | None = None,
    precision: Precision = "float32",
    mixed_precision: Literal["no", "fp16", "bf16"] = "no",
    seed: int = 0,
    cache: Path | None = default_cache(),  # noqa: B008 (immutable)
    out: Path = Path("runs/nlp"),
) -> TextAdapter:
    """Learns classes of texts, and saves an adapter that can be asked, taught more and made to forget.

    Args:
        encoder: a transformer, as an id on the Hub or a path.
        data: where the texts come from.
        recipe: how the adapter learns.
        tuning: how the encoder is fine-tuned first; null: it stays as it is, and learning takes seconds.
        pooling: which token stands for a text; null: as the encoder's own files say, otherwise the mean of all.
        layers: the mean of these layers; null: the last alone, or where it is not fine-tuned and does better on the
            texts themselves, the mean of the last two.
        max_length: tokens per text; null: as the encoder's own files say.
        precision: of the encoder in use; with fine-tuning, afterwards.
        mixed_precision: of fine-tuning, as accelerate knows it.
        seed: of fine-tuning.
        cache: folder where embeddings of an encoder that was not fine-tuned are kept; null: nowhere.
        out: folder for the adapter and the results.
    """
    shots = data.load()
    model = TextEncoder.load(encoder, pooling=pooling, layers=layers, max_length=max_length)
    began = time.perf_counter()
    names = [readable(name) for name in shots.classes]
    head = None
    if tuning is not None:
        accelerator = new_accelerator(mixed_precision=mixed_precision)
        labels = torch.cat([shots.labels, torch.arange(len(names))])
        texts = [*shots.texts, *names]
        model, head = tuning.tune(model, texts, labels, seed=seed, accelerator=accelerator, progress_bar=True)
        cache = None  # these vectors are of no use to another run
    elif layers is None:
        model = choose_layers(model, shots.texts, shots.labels, names, cache=cache)
    model.set_precision(precision)
    adapter = TextAdapter(model, recipe)
    adapter.learn(shots, cache, head)
    seconds = time.perf_counter() - began
    settings = {"encoder": encoder, "classes": len(adapter.classes), "texts": len(shots), "learn_seconds": seconds}
    results = Results("nlp/train", settings)
    if data.valid is not None:
        inside, outside = data.judged(data.valid).load(adapter.classes)
        near = adapter.similarity(model.embed(inside.texts, cache))
        far = adapter.similarity(model.embed(outside, cache)) if outside else None
        adapter.threshold = choose_threshold(near, far)
        results.config["threshold"] = adapter.threshold
        judge(results, "valid", adapter, inside, outside, cache)
    if data.test is not None:
        judge(results, "test", adapter, *data.judged(data.test).load(adapter.classes), cache)
    adapter.save(out)
    results.memory_bytes = adapter.memory.nbytes
    results.save(out)
    print(f"{len(shots)} texts of {len(adapter.classes)} classes learned in {seconds:.1f} s; the adapter is in {out}")
    if results.rows:
        results.print()
    return adapter


def main(args: Sequence[str] | None = None) -> None:
    """The entry point; ``--config FILE`` takes the options from a YAML file."""
    parser = Parser(prog="memreplay nlp train", description=(train.__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", action="config", help="a YAML file with options")
    parser.add_function_arguments(train, fail_untyped=True)
    run(train, parser, sys.argv[1:] if args is None else args)


if __name__ == "__main__":
    main()
