"""Train: a text classifier from labelled texts, a few of each class or many.

Run as ``memreplay nlp train`` or ``accelerate launch -m memreplay.nlp.train``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from ..arguments import command
from ..core.reporting import Results
from ..core.reporting.cases import save_cases
from ..core.reporting.results import note
from ..core.training import new_accelerator
from .adapter import Recipe, TextAdapter, readable, spoken
from .data import TextData
from .embeddings import default_cache
from .encoder import TextEncoder
from .evaluate import judge
from .layers import choose_layers, solved_share, with_mean
from .pooling import Token
from .precision import Precision
from .scope import choose_threshold
from .tuning import Tuning


def train(
    encoder: str,
    data: TextData,
    recipe: Recipe = Recipe(),  # noqa: B008 (immutable)
    tuning: Tuning | None = Tuning(),  # noqa: B008 (immutable)
    lora: int | None = None,
    pooling: Token | None = None,
    layers: list[int] | None = None,
    max_length: int | None = None,
    precision: Precision = "float32",
    mixed_precision: Literal["no", "fp16", "bf16"] = "no",
    seed: int = 0,
    cache: Path | None = default_cache(),  # noqa: B008 (immutable)
    save_every: int | None = None,
    out: Path = Path("runs/nlp"),
    resume: bool = False,
) -> TextAdapter:
    """Learns classes of texts, and saves an adapter that can be asked, taught more and made to forget.

    Args:
        encoder: a transformer, as an id on the Hub or a path.
        data: where the texts come from.
        recipe: how the adapter learns.
        tuning: how the encoder is fine-tuned first; null: it stays as it is, and learning takes seconds.
        lora: rank of the corrections that fine-tuning learns instead of weights; null: it learns the weights.
        pooling: which token stands for a text; null: as the encoder's own files say, otherwise the mean of all.
        layers: the mean of these layers; null: the last alone, or where it is not fine-tuned and does better on the
            texts themselves, the mean of the last two. Vectors of a fine-tuned encoder have the mean of all layers but
            the lowest as their second half.
        max_length: tokens per text; null: as the encoder's own files say.
        precision: of the encoder in use; with fine-tuning, afterwards.
        mixed_precision: of fine-tuning, as accelerate knows it.
        seed: of fine-tuning.
        cache: folder where embeddings of an encoder that was not fine-tuned are kept; null: nowhere.
        save_every: optimizer steps between checkpoints of fine-tuning, besides one at the end.
        out: folder for the adapter and the results.
        resume: go on with the fine-tuning in ``out``.
    """
    shots = data.load()
    judged = {name: data.judged(source).load(shots.classes) for name, source in data.sources.items()}
    accelerator = new_accelerator(mixed_precision=mixed_precision)
    model = TextEncoder.load(encoder, pooling=pooling, layers=layers, max_length=max_length, device=accelerator.device)
    began = time.perf_counter()
    told = spoken(shots.classes)
    names = [readable(shots.classes[place]) for place in told]
    every = names if len(names) == len(shots.classes) else ()
    head = None
    if tuning is not None:
        if recipe.solved_share is None:
            share = solved_share(model, shots.texts, shots.labels, every, cache=cache)
            recipe = replace(recipe, solved_share=share)
        labels = torch.cat([shots.labels, torch.tensor(told, dtype=torch.int64)])
        texts = [*shots.texts, *names]
        saving: dict[str, Any] = {"out": out / "tuning", "save_every": save_every, "resume": resume}
        model, head = tuning.tune(
            model, texts, labels, lora=lora, seed=seed, accelerator=accelerator, progress_bar=True, **saving
        )
        model = with_mean(model)
        cache = None  # these vectors are of no use to another run
    elif layers is None:
        model = choose_layers(model, shots.texts, shots.labels, every, cache=cache)
    model.set_precision(precision)
    adapter = TextAdapter(model, recipe)
    adapter.learn(shots, cache, head)
    seconds = time.perf_counter() - began
    if accelerator.is_main_process:
        settings = {"encoder": encoder, "classes": len(adapter.classes), "texts": len(shots), "learn_seconds": seconds}
        results = Results("nlp/train", settings)
        if "valid" in judged:
            inside, outside = judged["valid"]
            near = adapter.similarity(model.embed(inside.texts, cache))
            far = adapter.similarity(model.embed(outside, cache)) if outside else None
            adapter.threshold = results.config["threshold"] = choose_threshold(near, far)
        for name, (inside, outside) in judged.items():
            judge(results, name, adapter, inside, outside, cache)
        note(out, "learned", {"seconds": seconds, **{f"{row.name} {row.metric}": row.ours for row in results.rows}})
        adapter.save(out)
        results.memory_bytes = adapter.memory.nbytes
        results.add_cost("", [seconds], [results.memory_bytes])
        results.save(out)
        if "test" in judged:
            save_cases(adapter.explained(judged["test"][0], cache=cache), out)
        print(
            f"{len(shots)} texts of {len(adapter.classes)} classes learned in {seconds:.1f} s; the adapter is in {out}"
        )
        if results.rows:
            results.print()
    accelerator.wait_for_everyone()
    return adapter


def main(args: Sequence[str] | None = None) -> None:
    """The entry point; ``--config FILE`` takes the options from a YAML file."""
    command(train, "memreplay nlp train", args, config="a YAML file with options")


if __name__ == "__main__":
    main()
