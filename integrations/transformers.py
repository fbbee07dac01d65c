"""ReplayCallback: a memory within `transformers.Trainer`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from ..core.batch import Batch, from_offsets, offsets_of
from ..core.memory import ReplayMemory
from ..core.mixers import Forward, View
from ..core.training import Remember, picker
from .replayed import Processes, check, replay_loss


class ReplayCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Replay for `transformers.Trainer`: ``Trainer(..., callbacks=[ReplayCallback(memory)])``.

    The Trainer's own loss stays as it is. Before every optimizer step the callback recalls rows, runs them through the
    model and adds the gradient of the memory's terms, once per step however many batches are accumulated, so that
    clipping, the scheduler and averaging over processes act on the sum. After the step the memory is offered the
    batches of the step, texts as tokens without their padding. Every checkpoint of the Trainer holds the memory too,
    in its folder ``memory``, and a run that goes on from one takes it up again. The terms enter the log as
    ``replay/...``; with nothing to recall, the run is bit for bit one without a memory.

    Works on one process, and on several with DistributedDataParallel (``torchrun``).

    Args:
        memory: its mix holds terms on recalled rows alone, such as ``ReplayCrossEntropy()``. Its store needs
            ``columns={"input_ids": Ragged()}`` where texts differ in length; targets are in the column ``label``.
        forward: ``forward(model, batch) -> outputs``. By default the model is called with the columns that it has
            arguments for, padded, and gives ``logits``.
        remember: what to remember of a batch, as in `memreplay.fit`: names of columns or of the model's outputs, such
            as ``["input_ids", "label", "logits"]``, or a function. None: what the model was given.

    Raises:
        ValueError: a mix that needs the loss of the new rows; and, when training starts, a way of running it that
            would not be exact: FSDP, DeepSpeed, several GPUs in one process.

    >>> from memreplay import Ragged, ReplayCrossEntropy, ReplayMemory, Store
    >>> store = Store(500, columns={"input_ids": Ragged()})
    >>> callback = ReplayCallback(ReplayMemory(store, mix=ReplayCrossEntropy(), replay=16))
    """

    def __init__(
        self,
        memory: ReplayMemory,
        forward: Forward | None = None,
        remember: Sequence[str] | Remember | None = None,
    ) -> None:
        check(memory)
        self.memory = memory
        self.terms: dict[str, Tensor] = {}
        """The terms of the last step, by name."""
        self._forward = forward
        self._pick = picker(remember)
        self._seen: list[View] = []
        self._replaying = False
        self._hook: Any = None
        self._processes: Processes | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks where the model is called; takes up the memory of a checkpoint."""
        from accelerate.state import AcceleratorState  # type: ignore[import-untyped,unused-ignore]

        kind = str(AcceleratorState().distributed_type).rpartition(".")[2]
        if kind not in ("NO", "MULTI_CPU", "MULTI_GPU") or args.n_gpu > 1:
            raise ValueError(
                f"the Trainer runs as {kind} with {args.n_gpu} GPUs in a process; ReplayCallback expects one process "
                "per device and whole models (torchrun)"
            )
        if args.world_size > 1:
            self._processes = Processes(args.process_index, args.world_size, args.device)
            self.memory.attach(self._processes)
        if state.global_step > 0:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}", "memory")
            if folder.exists():
                self.memory.load(folder)
            elif self.memory.source is not None and len(self.memory.source) == 0:
                raise ValueError(
                    f"training goes on from step {state.global_step}, but {folder} does not exist and the memory is "
                    "empty; expected memory.load(FOLDER) before train(...), from the checkpoint's folder memory"
                )
        self._unhook()
        self._seen = []
        self._hook = kwargs["model"].register_forward_hook(self._note, with_kwargs=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds the gradient of the terms on recalled rows; nothing else has been added since the last step."""
        model, scaler = kwargs["model"], getattr(kwargs["optimizer"], "scaler", None)
        model.train()
        self._replaying = True
        try:
            forward = self._forward or _Padded(model, kwargs.get("processing_class"))
            loss = replay_loss(self.memory, model, forward, args.device)
        finally:
            self._replaying = False
        self.terms = {} if loss is None else {name: value.detach() for name, value in loss.terms.items()}
        if loss is not None:
            (loss.total if scaler is None else scaler.scale(loss.total)).backward()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Offers the batches of the step to the memory."""
        seen, self._seen = self._seen, []
        for i, view in enumerate(seen):
            if self._processes is not None:
                _tell_repetitions(self._processes, last=i == len(seen) - 1)
            self.memory.remember(**(self._pick(view) or {}))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Adds the terms of the last step to what a training step reports."""
        if logs is not None and "loss" in logs:
            told = {f"replay/{name}": float(value) for name, value in self.terms.items()}
            logs.update(told)
            state.log_history[-1].update(told)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the memory beside the checkpoint."""
        if args.should_save:
            self.memory.save(Path(args.output_dir, f"checkpoint-{state.global_step}", "memory"))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Lets go of the model."""
        self._unhook()
        if self._processes is not None:
            self.memory.detach()
            self._processes = None

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _note(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        """A forward hook: what the Trainer gives the model, and what it answers, until the end of the step."""
        if self._replaying or not model.training:
            return
        if "labels" not in kwargs:
            raise ValueError(
                f"the model was called with {sorted(kwargs)}, without labels; label smoothing and compute_loss_func "
                "take them away, and ReplayCallback has nothing to remember"
            )
        answered = {name: v.detach() for name, v in outputs.items() if isinstance(v, Tensor) and v.dim()}
        self._seen.append(View(columns(kwargs), answered))


def _tell_repetitions(processes: Processes, last: bool) -> None:
    """The Trainer fetches all batches of a step at once; only the last of them can end with repeated rows."""
    from accelerate.state import GradientState

    state, told = GradientState(), processes.gradient_state
    told.end_of_dataloader = last and state.end_of_dataloader
    told.remainder, told.active_dataloader = state.remainder, state.active_dataloader


def columns(inputs: Mapping[str, Any]) -> Batch:
    """What a model of transformers is called with, as columns of a store: without padding where there is an
    ``attention_mask`` (B, L), ``labels`` named ``label``.

    >>> found = columns({"input_ids": torch.tensor([[5, 6], [7, 0]]), "attention_mask": torch.tensor([[1, 1], [1, 0]]),
    ...                  "labels": torch.tensor([0, 1])})
    >>> [row.tolist() for row in found["input_ids"].unbind()], found["label"].tolist()
    ([[5, 6], [7]], [0, 1])
    """
    given = {name: values for name, values in inputs.items() if isinstance(values, Tensor) and values.dim()}
    mask = given.pop("attention_mask", None)
    if mask is not None and mask.dim() == 2:
        mask = mask.bool()
        offsets = torch.cat([mask.new_zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
        for name, values in given.items():
            if values.shape[:2] == mask.shape:
                given[name] = from_offsets(values[mask], offsets)
    return {"label" if name == "labels" else name: values for name, values in given.items()}


class _Padded:
    """The default forward: the columns that the model has arguments for, padded as its tokenizer pads."""

    def __init__(self, model: nn.Module, processing_class: Any) -> None:
        within = getattr(model, "get_base_model", None)  # peft's own forward has fewer arguments
        self._arguments = set(inspect.signature((within() if callable(within) else model).forward).parameters)
        self._pad = getattr(getattr(model, "config", None), "pad_token_id", None) or 0
        self._left = getattr(processing_class, "padding_side", "right") == "left"

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inputs = {}
        for name in self._arguments & batch.keys():
            values = batch[name]
            if values.is_nested:
                values, inputs["attention_mask"] = self._padded(values, self._pad if name == "input_ids" else 0)
            inputs[name] = values
        outputs = model(**inputs)
        return {name: v for name, v in outputs.items() if isinstance(v, Tensor) and v.dim()}

    def _padded(self, rows: Tensor, fill: int) -> tuple[Tensor, Tensor]:
        lengths = offsets_of(rows).diff().unsqueeze(1)
        place = torch.arange(int(lengths.max()), device=rows.device)
        mask = place >= len(place) - lengths if self._left else place < lengths
        values = rows.values()
        padded = values.new_full((*mask.shape, *values.shape[1:]), fill)
        padded[mask] = values
        return padded, mask.long()
