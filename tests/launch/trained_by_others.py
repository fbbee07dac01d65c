"""Trains with the callbacks for transformers and Lightning, on as many processes as it is started on.

    torchrun --nproc_per_node 2 trained_by_others.py OUT

A global batch is the same eight rows however many processes share it.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memreplay import ReplayCrossEntropy, ReplayMemory, Store
from memreplay.integrations import lightning as for_lightning
from memreplay.integrations import transformers as for_transformers

warnings.filterwarnings("ignore")
ROWS, BATCH = 52, 8


def memory() -> ReplayMemory:
    return ReplayMemory(Store(12, seed=0), mix=0.7 * ReplayCrossEntropy(), replay=5)


def data() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, 4, generator=generator, dtype=torch.float64)
    return [{"input": row, "labels": torch.tensor(i % 3)} for i, row in enumerate(inputs)]


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 3).double()

    def forward(self, input: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(input)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def by_transformers(out: Path, processes: int, accumulate: int, rows: int) -> dict[str, Any]:
    import transformers

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    held, net = memory(), Classifier()
    arguments = transformers.TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=BATCH // processes,
        gradient_accumulation_steps=accumulate,
        num_train_epochs=2,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.3,
        optim="sgd",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    callbacks = [for_transformers.ReplayCallback(held)]
    InOrder(model=net, args=arguments, train_dataset=data()[:rows], callbacks=callbacks).train()
    return told(net, held)


def by_lightning(out: Path, processes: int) -> dict[str, Any]:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Classifier()

        def forward(self, values: Tensor) -> Tensor:
            return self.net(values)["logits"]

        def training_step(self, batch: Any, index: int) -> Tensor:
            return self.net(batch["input"], batch["label"])["loss"]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    rows = [{"input": row["input"], "label": row["labels"]} for row in data()[:48]]
    held, module = memory(), Module()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=0.3,
        default_root_dir=out,
        callbacks=[for_lightning.ReplayCallback(held)],
    )
    rank, size = int(os.environ.get("RANK", 0)), BATCH // processes
    parts = [rows[i : i + size] for i in range(0, len(rows), size)][rank::processes]
    trainer.fit(module, torch.utils.data.DataLoader([torch.utils.data.default_collate(p) for p in parts], None))
    return told(module, held)


def told(net: nn.Module, held: ReplayMemory) -> dict[str, Any]:
    rows = held.source.rows()
    return {
        "parameters": [p.detach() for p in net.parameters()],
        "ids": rows.ids.tolist(),
        "inputs": rows["input"],
        "seen": held.source.seen,
    }


def run(out: Path, processes: int) -> dict[str, Any]:
    return {
        "transformers": by_transformers(out, processes, 1, 48),
        "transformers, accumulated": by_transformers(out, processes, 4, 48),
        "transformers, uneven": by_transformers(out, processes, 4, ROWS),
        "lightning": by_lightning(out, processes),
    }


if __name__ == "__main__":
    folder, world = Path(sys.argv[1]), int(os.environ["WORLD_SIZE"])
    torch.save(run(folder, world), folder / f"rank-{os.environ['RANK']}.pt")
