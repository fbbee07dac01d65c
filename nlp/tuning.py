"""Tuning: the top layers of an encoder learn the classes, under a cosine head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from ..core.batch import Batch, jagged
from ..core.heads import LinearHead
from ..core.loading import EpochSampler, Table
from ..core.memory import ReplayMemory
from ..core.mixers import CrossEntropy
from ..core.mixers.prototype import class_means
from ..core.protocols.seeding import generator_at
from ..core.training import fit
from .classifier import TextClassifier
from .encoder import TextEncoder, token_rows


@dataclass(frozen=True)
class Tuning:
    """Fine-tunes an encoder so that texts of a class lie close together: cross-entropy of a cosine classifier whose
    weights begin at the mean of each class (Gidaris and Komodakis, Dynamic Few-Shot Visual Learning without Forgetting,
    CVPR 2018; Qi et al., Low-Shot Learning with Imprinted Weights, CVPR 2018),

        ``loss = CE(scale * cos(W_c, f(x)), y)``

    AdamW, a linear warm-up over a tenth of the steps and a linear decay to 0. The embeddings of the tokens and the
    layers below the top ones stay as they are: a few examples say nothing about the words that they do not contain.

    Args:
        layers: how many layers learn, from the top; all if there are fewer. The others run without dropout.
        epochs: how often to go through the texts, unless that takes more than ``steps``.
        steps: at most, but once through all texts.
        lr: learning rate of the layers.
        head_lr: learning rate of the head.
        batch_size: texts per step.
        scale: of the cosine; it stays as it is.
    """

    layers: int = 3
    epochs: int = 5
    steps: int = 150
    lr: float = 4e-4
    head_lr: float = 1e-3
    batch_size: int = 32
    scale: float = 10.0

    def __post_init__(self) -> None:
        for name in ("layers", "epochs", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("lr", "head_lr", "scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number above 0")

    def tune(
        self,
        encoder: TextEncoder,
        texts: Sequence[str],
        labels: Tensor,
        *,
        start: LinearHead | None = None,
        memory: ReplayMemory | None = None,
        lora: int | None = None,
        seed: int = 0,
        accelerator: Any | None = None,
        progress_bar: bool = False,
        **options: Any,
    ) -> tuple[TextEncoder, LinearHead]:
        """A copy of the encoder that has learned the classes, which gives vectors of length 1, and its head, which is a
        linear one on them; ``encoder`` itself is left alone.

        Args:
            encoder: where to start from, in float32.
            texts: N texts; the names of the classes may be among them.
            labels: (N,) int64, the class of each, from 0 to C - 1; every class that ``start`` has not at least once.
            start: the head for classes learned before, as this method gave it; they come first.
            memory: what is recalled, and how it enters the loss: rows with ``tokens`` and ``label``, see `token_rows`.
                It is not added to, see `remember_tokens`. None: cross-entropy on the texts.
            lora: learn corrections of this rank instead of weights, see `TextClassifier`.
            seed: of the order of the texts and of dropout.
            accelerator: see `fit`.
            progress_bar: whether to show one.
            options: for `fit`, such as ``out`` and ``resume``.

        Raises:
            ValueError: an empty text, a class without a text, or an encoder in another precision.
        """
        if encoder.precision != "float32":
            raise ValueError(f"encoder is in {encoder.precision}; expected float32 to fine-tune it")
        if len(labels) != len(texts):
            raise ValueError(f"labels has {len(labels)} rows for {len(texts)} texts; expected one per text")
        classes, means = class_means(encoder.embed(texts), labels.cpu())
        known = 0 if start is None else start.classes
        added = classes >= known
        if classes[added].tolist() != list(range(known, known + int(added.sum()))):
            raise ValueError(f"labels has the classes {classes.tolist()}; expected every number from {known} on")
        weight = means[added]
        if start is not None:
            weight = torch.cat([F.normalize(start.weight.detach().cpu(), dim=1), weight])
        ids = encoder.tokens(texts)
        lengths = torch.tensor([len(row) for row in ids])
        rows: Batch = {"tokens": jagged(ids), "label": labels.cpu()}
        loader = DataLoader(
            Table(rows), self.batch_size, sampler=ByLength(lengths, self.batch_size, seed), collate_fn=_as_it_is
        )
        head = LinearHead(weight, scale=self.scale)
        assert head.scale is not None
        head.scale.requires_grad_(False)
        twin = encoder.clone()
        twin.pooling = replace(encoder.pooling, normalize=True)
        model = TextClassifier(twin, head, self.layers, lora, seed).to(encoder.device)
        optimizer = torch.optim.AdamW(
            [
                {"params": model.body_parameters(), "lr": self.lr, "weight_decay": 0.01},
                {"params": [model.head.weight], "lr": self.head_lr, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
        )
        steps = min(self.epochs * len(loader), max(self.steps, len(loader)))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, steps))
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # of dropout
            fit(
                model,
                optimizer,
                loader,
                ReplayMemory(mix=CrossEntropy()) if memory is None else memory,
                steps=steps,
                forward=outputs_of,
                remember=(),
                scheduler=scheduler,
                clip_norm=1.0,
                accelerator=accelerator,
                progress_bar=progress_bar,
                **options,
            )
        tuned = model.finish()
        weight = self.scale * F.normalize(model.head.weight.detach(), dim=1)
        return tuned, LinearHead(weight, weight.new_zeros(len(weight)))


def outputs_of(model: Callable[[Tensor], dict[str, Tensor]], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The forward of a `TextClassifier` on rows with ``tokens``."""
    return model(batch["tokens"])


def remember_tokens(
    memory: ReplayMemory, encoder: TextEncoder, head: LinearHead, texts: Sequence[str], labels: Tensor
) -> None:
    """Offers texts to a memory, as rows of ``tokens``, ``label`` and the ``logits`` that the head gives them now: what
    `Tuning.tune` replays. The store needs ``columns={"tokens": Ragged(), "logits": Growable()}``."""
    with torch.no_grad():
        logits = head.cpu()(encoder.embed(texts))
    memory.detach()
    memory.remember(tokens=token_rows(encoder, texts), label=labels.cpu(), logits=logits)


class ByLength(EpochSampler):
    """`EpochSampler` for batches with little padding: of every ``window`` batches the rows are sorted by length, then
    the batches are shuffled. A batch that is not full comes last.

    Args:
        lengths: (N,) int64, of every row.
        size: rows per batch.
        seed: of the order.
        window: batches that are sorted together; more of them means less padding and less shuffling.

    >>> sampler = ByLength(torch.tensor([9, 2, 8, 1, 3]), 2)
    >>> order = list(sampler)
    >>> sorted(order), {0, 2} in (set(order[:2]), set(order[2:4]), set(order[3:]))
    ([0, 1, 2, 3, 4], True)
    """

    def __init__(self, lengths: Tensor, size: int, seed: int = 0, window: int = 8) -> None:
        super().__init__(len(lengths), seed)
        self.lengths = lengths
        self.batch = size
        self.window = window

    def __iter__(self) -> Iterator[int]:
        generator = generator_at(self.seed, "epoch", self.epoch)
        order = torch.randperm(self.size, generator=generator)
        sorted_parts = [part[self.lengths[part].argsort()] for part in order.split(self.batch * self.window)]
        batches = torch.cat(sorted_parts).split(self.batch)
        full = len(batches) - (self.size % self.batch > 0)
        places = [*torch.randperm(full, generator=generator).tolist(), *range(full, len(batches))]
        for place in places:
            yield from batches[place].tolist()


def _share(step: int, steps: int) -> float:
    """Of the learning rate, at ``step`` of ``steps``."""
    warm = max(1, steps // 10)
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def _as_it_is(batch: Any) -> Any:
    return batch
