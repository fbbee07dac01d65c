"""Checkpoints: everything a run needs to go on, committed together."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from .memory import ReplayMemory
from .random_state import RandomState
from .stores.files import to_disk


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        epoch: epochs done.
        batch: batches done of the epoch at hand.
        seconds: time spent training, over all parts of the run.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0


class Checkpoints:
    """The last checkpoints of a run, a folder ``step-<n>-epoch-<m>`` each; the file ``latest`` names the one to go on
    from.

    ``latest`` moves only when a checkpoint is complete on disk, so a run that is killed at any time, also while saving,
    can go on. Weights are in safetensors; optimizer and generators in PyTorch's format, read back with
    ``weights_only=True``, which runs no code.

    Args:
        folder: where they lie.
        accelerator: an `accelerate.Accelerator`.
        model: its weights are saved, without the wrapper of several processes.
        memory: saved into the folder ``memory`` of each checkpoint.
        parts: everything else with ``state_dict`` and ``load_state_dict``, by name.
        keep: how many checkpoints to keep.
    """

    def __init__(
        self,
        folder: str | Path,
        accelerator: Any,
        model: nn.Module,
        memory: ReplayMemory,
        parts: Mapping[str, Any],
        keep: int = 2,
    ) -> None:
        self.folder = Path(folder)
        self.accelerator = accelerator
        self.model: nn.Module = accelerator.unwrap_model(model)
        self.memory = memory
        self.parts = dict(parts)
        if accelerator.scaler is not None:
            self.parts["scaler"] = accelerator.scaler
        self.keep = keep

    def latest(self) -> Path | None:
        """The checkpoint to go on from; None where there is none."""
        return latest(self.folder)

    def save(self, progress: Progress, start: RandomState, now: RandomState) -> None:
        """Writes a checkpoint, on every process at the same step, unless it is there already.

        Args:
            progress: where the run stands.
            start: generators at the start of the epoch.
            now: generators at this point.
        """
        folder = self.folder / f"step-{progress.step}-epoch-{progress.epoch}"
        if self.latest() == folder:
            return
        main, wait = self.accelerator.is_main_process, self.accelerator.wait_for_everyone
        if main:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        wait()
        torch.save({"start": start, "now": now}, folder / f"random-{self.accelerator.process_index}.pt")
        if main:
            save_model(self.model, str(folder / "model.safetensors"))
            torch.save({name: part.state_dict() for name, part in self.parts.items()}, folder / "state.pt")
            self.memory.save(folder / "memory")
            about = {**asdict(progress), "micro_step": self.accelerator.step}
            (folder / "progress.json").write_text(json.dumps(about))
        wait()
        if main:
            self._commit(folder)
        wait()

    def _commit(self, folder: Path) -> None:
        for path in (*folder.iterdir(), folder, self.folder):
            to_disk(path)
        draft = self.folder / "latest.draft"
        draft.write_text(folder.name)
        to_disk(draft)
        os.replace(draft, self.folder / "latest")
        to_disk(self.folder)
        found = sorted((path for path in self.folder.iterdir() if _place(path)), key=lambda path: _place(path) or ())
        last = found.index(folder)
        for path in [*found[: max(0, last + 1 - self.keep)], *found[last + 1 :]]:
            shutil.rmtree(path, ignore_errors=True)

    def load(self) -> tuple[Progress, RandomState | None, RandomState | None]:
        """Puts everything back to the latest checkpoint, except the generators, whose states are returned: at the start
        of the epoch, and when it was saved. They are None for a process that the saved run did not have.

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: the checkpoint has other parts than this run, or does not fit its model or memory.
        """
        folder = self.latest()
        if folder is None:
            raise FileNotFoundError(f"{self.folder} holds no checkpoint")
        saved = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        if saved.keys() != self.parts.keys():
            raise ValueError(f"{folder} holds the state of {sorted(saved)}; this run has {sorted(self.parts)}")
        try:
            load_model(self.model, folder / "model.safetensors")
        except RuntimeError as error:
            raise ValueError(f"{folder} holds another model: {error}") from error
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        self.memory.load(folder / "memory")
        about = json.loads((folder / "progress.json").read_text())
        self.accelerator.step = about.pop("micro_step")
        states = folder / f"random-{self.accelerator.process_index}.pt"
        self.accelerator.wait_for_everyone()
        if not states.is_file():
            return Progress(**about), None, None
        generators = torch.load(states, map_location="cpu", weights_only=True)
        return Progress(**about), generators["start"], generators["now"]


def latest(folder: str | Path) -> Path | None:
    """The checkpoint in ``folder`` to go on from; None where there is none.

    Raises:
        ValueError: the file ``latest`` does not name a checkpoint.
    """
    pointer = Path(folder) / "latest"
    if not pointer.is_file():
        return None
    name = pointer.read_text().strip()
    found = Path(folder) / name
    if found.parent != Path(folder) or _place(found) is None or not found.is_dir():
        raise ValueError(f"{pointer} names {name!r}, which is no checkpoint in {folder}")
    return found


def _place(folder: Path) -> tuple[int, ...] | None:
    """Step and epoch of a checkpoint, from its name."""
    found = re.fullmatch(r"step-(\d+)-epoch-(\d+)", folder.name)
    return None if found is None else tuple(map(int, found.groups()))
