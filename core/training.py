"""Training: the plain loop that every domain shares."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from . import scores
from .batch import Batch
from .checkpoint import Checkpoints, Progress, latest
from .distributed import is_plain, share_buffers
from .loading import Feed
from .memory import ReplayMemory
from .mixers.cross_entropy import CrossEntropy
from .mixers.view import Forward, View, joint_forward
from .precision import has_bf16
from .stores.rows import Rows

Remember: TypeAlias = Callable[[View], Mapping[str, Tensor] | None]
"""From the view of the new rows to the columns that the memory shall take in; None for nothing."""
Views: TypeAlias = Callable[[Any, Any, Mapping[str, Rows] | None], tuple[View, dict[str, View]]]
"""From the model, a batch and what was recalled to the views of the new rows and of every draw, as `joint_forward`."""
Hook: TypeAlias = Callable[[Progress], Mapping[str, float] | None]
"""Called with the progress; what it returns is reported."""


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Iterable[Batch],
    memory: ReplayMemory | None = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    forward: Forward | None = None,
    views: Views | None = None,
    query: Callable[[Batch], Mapping[str, Tensor]] | None = None,
    score: Callable[..., Tensor] | None = None,
    remember: Sequence[str] | Remember | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    clip_norm: float | None = None,
    accelerator: Any | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    save_every: int | None = None,
    log_every: int = 50,
    on_step_end: Hook | None = None,
    on_epoch_end: Hook | None = None,
    stateful: Mapping[str, Any] | None = None,
    progress_bar: bool = True,
) -> Progress:
    """Trains ``model`` on the batches of ``loader``, with what ``memory`` recalls. Call it once per session.

    Without a memory this is bit for bit the loop anyone would write. With ``out``, ``metrics.jsonl`` gets one line per
    report and ``checkpoints/`` the state; a run stopped at any time goes on with ``resume=True`` as if it had not been
    stopped, on the CPU bit for bit. For this the order of the data must come from the global generators or the epoch
    (``DataLoader(shuffle=True)``, `batches`, anything with ``set_epoch``), and random augmentation must depend on the
    epoch and the row alone. Ctrl-C finishes the step, saves, and says how to go on.

    On several processes layers with batch statistics normalise by the rows of their process and keep the statistics of
    rank 0, which all processes have when an epoch or the training ends. ``SyncBatchNorm.convert_sync_batchnorm``, for
    GPUs, gives those of one process.

    Args:
        model: called by ``forward``.
        optimizer: of the model's parameters.
        loader: batches, dicts of tensors. A `DataLoader` is shared out among the processes.
        memory: what to recall and how to mix it in; None: cross-entropy on the new rows.
        epochs: how often to go through the data; 1 if neither this nor ``steps`` is given.
        steps: optimizer steps to train for instead, through as many epochs as that takes.
        forward: see `joint_forward`.
        views: called instead of `joint_forward`, for a model whose outputs are not one row per row of a batch, such as
            a detector.
        query: from a batch to the query to recall with.
        score: the model's verdict to recall by, see `ReplayMemory.recall`; called as ``score(rows, batch=batch)``.
        remember: what to remember of every batch, see `picker`. None: the columns of the batch. ``()``: nothing.
        scheduler: stepped with the optimizer.
        clip_norm: largest norm of the gradient.
        accelerator: an `accelerate.Accelerator` for mixed precision, accumulation, trackers; a plain one by default.
        out: folder for reports and checkpoints.
        resume: go on from the latest checkpoint in ``out``, if there is one.
        save_every: optimizer steps between checkpoints; the last step is always saved.
        log_every: optimizer steps between reports.
        on_step_end: called after every optimizer step.
        on_epoch_end: called after every epoch.
        stateful: further objects with ``state_dict`` that checkpoints shall hold, by name, such as an `EMA`.
        progress_bar: whether to show one, on the main process of a terminal.

    Returns:
        How far it got.

    Raises:
        ValueError: both ``epochs`` and ``steps``, or both ``forward`` and ``views``; or ``out`` holds a run and
            ``resume`` is False.
        FloatingPointError: a reported loss is not finite.
    """
    if epochs is not None and steps is not None:
        raise ValueError(f"epochs is {epochs} and steps is {steps}; expected at most one of them")
    if forward is not None and views is not None:
        raise ValueError("forward and views are both given; expected at most one of them")
    if log_every < 1 or (save_every is not None and save_every < 1):
        raise ValueError(f"log_every is {log_every} and save_every is {save_every}; expected at least 1")
    if out is not None and not resume and latest(Path(out, "checkpoints")) is not None:
        raise ValueError(
            f"out is {str(out)!r}, which holds a run; expected another folder, or resume=True to go on with it"
        )
    if accelerator is None:
        accelerator = new_accelerator()
    memory = ReplayMemory(mix=CrossEntropy()) if memory is None else memory
    last_step = math.inf if steps is None else steps
    last_epoch = (1 if epochs is None else epochs) if steps is None else math.inf
    pick = picker(remember)
    remembers = memory.source is not None and (remember is None or callable(remember) or len(remember) > 0)

    with _prepared(accelerator, model, optimizer, loader, memory) as (model, optimizer, feed):
        progress, checkpoints = Progress(), None
        if out is not None:
            parts = {"optimizer": optimizer, **({"scheduler": scheduler} if scheduler else {}), **(stateful or {})}
            checkpoints = Checkpoints(Path(out, "checkpoints"), accelerator, model, memory, parts)
            if resume and checkpoints.latest() is not None:
                progress, start, now = checkpoints.load()
                if start is not None and now is not None:
                    feed.resume(start, now)
        reports = Reports(accelerator, out, progress, _total(last_step, last_epoch, feed, accelerator), progress_bar)
        began = time.perf_counter() - progress.seconds

        model.train()
        with reports, Interrupt(accelerator, active=checkpoints is not None) as interrupt:
            while progress.epoch < last_epoch and progress.step < last_step:
                whole_epoch = True
                for batch in feed.epoch(progress.epoch, skip=progress.batch):
                    with accelerator.accumulate(model):
                        verdict = None if score is None else partial(score, batch=batch)
                        recalled = memory.recall(None if query is None else query(batch), verdict)
                        if views is None:
                            new, old = joint_forward(model, batch, recalled, forward)
                        else:
                            new, old = views(model, batch, recalled)
                        loss = memory.loss(new, old)
                        loss.backward(accelerator)
                        if accelerator.sync_gradients:
                            if clip_norm is not None:
                                accelerator.clip_grad_norm_(model.parameters(), clip_norm)
                            optimizer.step()
                            optimizer.zero_grad()
                    if remembers:
                        memory.remember(**(pick(new) or {}))
                    progress.batch += 1
                    if not accelerator.sync_gradients:
                        continue
                    progress.step += 1
                    progress.seconds = time.perf_counter() - began
                    if scheduler is not None and not accelerator.optimizer_step_was_skipped:
                        scheduler.step()
                    reports.advance()
                    if progress.step % log_every == 0 or progress.step == last_step:
                        reports.loss(loss.floats(), optimizer.param_groups[0]["lr"])
                    if on_step_end is not None:
                        reports.write(on_step_end(progress))
                        model.train()
                    if checkpoints is not None and save_every is not None and progress.step % save_every == 0:
                        checkpoints.save(progress, feed.start, feed.now())
                    if interrupt.wanted(progress.step % log_every == 0) or progress.step == last_step:
                        whole_epoch = feed.at_end
                        break
                if whole_epoch and progress.batch == 0:
                    raise ValueError(f"loader gave no batch in epoch {progress.epoch}; expected at least one")
                if whole_epoch:
                    progress.epoch, progress.batch = progress.epoch + 1, 0
                    share_buffers(model, accelerator)
                    if on_epoch_end is not None:
                        reports.write(on_epoch_end(progress))
                        model.train()
                if interrupt.agreed:
                    break
            if checkpoints is not None:
                checkpoints.save(progress, feed.start, feed.now())
            share_buffers(model, accelerator)
            interrupt.wanted(ask=True)  # it may have come since the last step
    if interrupt.agreed:
        accelerator.print(
            f"stopped at step {progress.step}; go on with resume=True and out={str(out)!r}", file=sys.stderr
        )
        interrupt.again()
    return progress


class Reports:
    """What a run tells while it runs: ``metrics.jsonl``, trackers, a progress bar; the main process alone.

    Every report is one line, written at once. A run that goes on from a checkpoint first drops the lines after it.
    """

    def __init__(
        self, accelerator: Any, out: str | Path | None, progress: Progress, total: float | None, progress_bar: bool
    ) -> None:
        self._accelerator = accelerator
        self._progress = progress
        self._main: bool = accelerator.is_main_process
        self._path = None if out is None or not self._main else Path(out, "metrics.jsonl")
        self._total = total
        self._show = progress_bar and self._main

    def __enter__(self) -> Reports:
        from tqdm import tqdm

        self._bar = tqdm(
            total=self._total, initial=self._progress.step, disable=None if self._show else True, unit="step"
        )
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            keep_lines(self._path, self._progress)
            self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._path is not None:
            self._file.close()

    def advance(self) -> None:
        """One more step is done."""
        self._bar.update()

    def loss(self, values: Mapping[str, float], lr: float) -> None:
        """Reports the loss and its terms.

        Raises:
            FloatingPointError: one of them is not finite.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at step {self._progress.step}; all terms: {dict(values)}")
        self._bar.set_postfix({"loss": f"{values['loss']:.4g}"}, refresh=False)
        self.write({**values, "lr": lr})

    def write(self, values: Mapping[str, float] | None) -> None:
        """Reports ``values``, if any."""
        if not values:
            return
        at = self._progress
        if self._path is not None:
            line = {"step": at.step, "epoch": at.epoch, "seconds": round(at.seconds, 3), **values}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        self._accelerator.log(dict(values), step=at.step)


def keep_lines(path: Path, progress: Progress) -> None:
    """Drops what a ``metrics.jsonl`` reports from after ``progress``, and a line that was cut off."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            at = json.loads(line)
        except ValueError:
            continue
        if (at["step"], at["epoch"]) <= (progress.step, progress.epoch):
            kept.append(line)
    draft = path.with_suffix(".draft")
    draft.write_text("".join(kept), encoding="utf-8")
    os.replace(draft, path)


class Interrupt:
    """Ctrl-C and SIGTERM as a wish to stop after the step at hand; a second one stops at once.

    Attributes:
        agreed: whether to stop, on every process alike.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, accelerator: Any, active: bool) -> None:
        self._accelerator = accelerator
        self._active = active and threading.current_thread() is threading.main_thread()
        self._before: dict[int, Any] = {}
        self._signal = 0
        self.agreed = False

    def __enter__(self) -> Interrupt:
        if self._active:
            self._before = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: object) -> None:
        if self._signal:
            self.__exit__()
            signal.raise_signal(number)
        self._signal = number

    def wanted(self, ask: bool) -> bool:
        """Whether to stop now. Several processes agree on it when all ``ask`` at the same step."""
        if self._accelerator.num_processes == 1:
            self.agreed = bool(self._signal)
        elif self._active and ask:
            wish = torch.tensor([self._signal], device=self._accelerator.device)
            self._signal = int(self._accelerator.gather(wish).max())
            self.agreed = bool(self._signal)
        return self.agreed

    def again(self) -> None:
        """Lets the signal do what it would have done without this object."""
        signal.raise_signal(self._signal)


@contextmanager
def _prepared(
    accelerator: Any, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Iterable[Batch], memory: ReplayMemory
) -> Iterator[tuple[Any, Any, Feed]]:
    """Model, optimizer and loader as accelerate wants them; afterwards all is as it was, for the next session, but that
    a memory with a source stays attached."""
    memory.attach(accelerator)
    registers = [accelerator._models, accelerator._optimizers, accelerator._dataloaders]
    sizes = [len(register) for register in registers]
    was_prepared = getattr(model, "_is_accelerate_prepared", False)
    placed = [None, None, None if accelerator.device.type != "cpu" else False]  # nothing to move on a CPU
    prepared_model, prepared_optimizer, prepared_loader = accelerator.prepare(
        model, optimizer, loader, device_placement=placed
    )
    if is_plain(accelerator):
        # the wrapper would do the same, but looks for an optional package on disk at every step
        prepared_optimizer = optimizer
    try:
        yield prepared_model, prepared_optimizer, Feed(loader, prepared_loader, accelerator)
    finally:
        for register, size in zip(registers, sizes, strict=True):
            del register[size:]
        if not was_prepared:
            accelerator.unwrap_model(prepared_model, keep_fp32_wrapper=False)
            model.__dict__.pop("_is_accelerate_prepared", None)
        if memory.source is None:
            memory.detach()


def new_accelerator(*, timeout: float = 600.0, **options: Any) -> Any:
    """An `accelerate.Accelerator` that has all the processes that were started, also where there are only CPUs.

    A process that ends makes those that wait for it fail at once, one that is stuck after ``timeout``.

    Args:
        timeout: seconds that a process waits for the others; longer than anything that one does alone, such as saving.
        options: for the accelerator.

    Raises:
        RuntimeError: ``WORLD_SIZE`` names another number of processes than take part.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs  # type: ignore[import-untyped,unused-ignore]

    handlers = list(options.pop("kwargs_handlers", None) or [])
    if not any(isinstance(handler, InitProcessGroupKwargs) for handler in handlers):
        handlers.append(InitProcessGroupKwargs(timeout=timedelta(seconds=timeout)))
    # without a word from us, accelerate takes processes on a CPU for runs of their own
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), kwargs_handlers=handlers, **options)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise RuntimeError(f"{started} processes were started but {accelerator.num_processes} take part; use torchrun")
    if accelerator.mixed_precision == "bf16" and accelerator.is_main_process and not has_bf16():
        warnings.warn(
            "mixed_precision is 'bf16', which this machine only imitates: a step may take fifty times as long as with "
            "'no'",
            stacklevel=2,
        )
    return accelerator


def picker(remember: Sequence[str] | Remember | None) -> Remember:
    """The function that picks what to remember from a view.

    Args:
        remember: such a function; or names of outputs, of columns, or of scores computed from the outputs and the
            ``label``: ``loss``, ``el2n``, ``margin``, ``gradient_norm``; None for all columns.
    """
    if callable(remember):
        return remember
    if remember is None:
        return lambda view: dict(view.rows.items())
    names = tuple(remember)
    return lambda view: {name: _pick(view, name) for name in names}


def _pick(view: View, name: str) -> Tensor:
    if name in view.outputs:
        return view.outputs[name]
    if name in view.rows or name not in _SCORES:
        return view.column(name)
    with torch.no_grad():
        return _SCORES[name](view)


_SCORES: dict[str, Callable[[View], Tensor]] = {
    "loss": lambda view: scores.loss(view.output("logits"), view.column("label")),
    "el2n": lambda view: scores.el2n(view.output("logits"), view.column("label")),
    "margin": lambda view: scores.margin(view.output("logits"), view.column("label")),
    "gradient_norm": lambda view: scores.gradient_norm(
        view.output("feature"), view.output("logits"), view.column("label")
    ),
}


def _total(last_step: float, last_epoch: float, feed: Feed, accelerator: Any) -> float | None:
    """Optimizer steps to come altogether, where that is known."""
    if last_step != math.inf:
        return last_step
    try:
        return last_epoch * math.ceil(len(feed) / int(accelerator.gradient_accumulation_steps))
    except TypeError:
        return None
