"""The callback for Lightning's Trainer, beside a loop written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memreplay import CrossEntropy, LogitDistillation, ReplayCrossEntropy, ReplayMemory, Store

lightning = pytest.importorskip("lightning.pytorch")
from memreplay.integrations.lightning import ReplayCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and loggers


class Classifier(lightning.LightningModule):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 3).double()

    def forward(self, values: Tensor) -> Tensor:
        return self.net(values)

    def training_step(self, batch: Any, index: int) -> dict[str, Tensor]:
        logits = self(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ByHand(Classifier):
    automatic_optimization = False


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(4, 4, generator=generator, dtype=torch.float64), torch.randint(3, (4,), generator=generator))
        for _ in range(6)
    ]


def memory() -> ReplayMemory:
    return ReplayMemory(Store(10, seed=0), mix=0.7 * ReplayCrossEntropy(), replay=3)


def train(out: Path, *callbacks: Any, module: Any = None, resume: Any = None, **options: Any) -> Any:
    arguments: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "gradient_clip_val": 0.3,
        "default_root_dir": out,
    }
    module = module or Classifier()
    run = lightning.Trainer(callbacks=list(callbacks), **{**arguments, **options})
    run.fit(module, torch.utils.data.DataLoader(data(), batch_size=None), ckpt_path=resume, weights_only=True)
    return run


def written_out(accumulate: int, epochs: int = 1) -> tuple[nn.Module, ReplayMemory]:
    module, held = Classifier(), memory()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(epochs):
        for start in range(0, 6, accumulate):
            window = data()[start : start + accumulate]
            for i, (values, label) in enumerate(window):
                (F.cross_entropy(module(values), label) / accumulate).backward()
                if i + 1 < len(window):
                    held.remember(input=values, label=label)
            recalled = held.recall()
            if recalled is not None:
                old = recalled["replay"]
                (0.7 * F.cross_entropy(module(old["input"]), old["label"])).backward()
            nn.utils.clip_grad_norm_(module.parameters(), 0.3)
            optimizer.step()
            optimizer.zero_grad()
            held.remember(input=values, label=label)
    return module, held


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_equals_the_loop_written_out(tmp_path: Path, accumulate: int) -> None:
    held = memory()
    run = train(tmp_path, ReplayCallback(held), accumulate_grad_batches=accumulate)
    module, expected = written_out(accumulate)
    for got, wanted in zip(run.lightning_module.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
    assert held.source.rows().ids.tolist() == expected.source.rows().ids.tolist()
    assert run.callback_metrics["replay/replay_cross_entropy"] > 0


def test_with_nothing_to_recall_a_run_is_one_without_a_memory(tmp_path: Path) -> None:
    plain = train(tmp_path).lightning_module
    run = train(tmp_path, ReplayCallback(ReplayMemory(Store(10), mix=ReplayCrossEntropy(), replay=0))).lightning_module
    assert torch.equal(plain.net.weight, run.net.weight)


def test_outputs_of_the_step_can_be_remembered(tmp_path: Path) -> None:
    held = ReplayMemory(Store(50), mix=LogitDistillation(), replay=3)
    train(tmp_path, ReplayCallback(held, remember=["input", "label", "logits"]))
    first = data()[0][0]
    torch.testing.assert_close(held.source.rows(range(4))["logits"], Classifier()(first).detach())


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = memory()
    expected = train(tmp_path, ReplayCallback(whole), max_epochs=2).lightning_module
    half = train(tmp_path, ReplayCallback(memory()))
    half.save_checkpoint(tmp_path / "half.ckpt")
    held = memory()
    got = train(tmp_path, ReplayCallback(held), max_epochs=2, resume=tmp_path / "half.ckpt").lightning_module
    assert torch.equal(got.net.weight, expected.net.weight)
    assert held.source.rows().ids.tolist() == whole.source.rows().ids.tolist()


def test_what_a_callback_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mix has \[CrossEntropy.*expected terms on recalled rows"):
        ReplayCallback(ReplayMemory(Store(5), mix=CrossEntropy()))
    with pytest.raises(ValueError, match="automatic_optimization is False"):
        train(tmp_path, ReplayCallback(memory()), module=ByHand(), gradient_clip_val=None)
    with pytest.raises(TypeError, match="batch is a Tensor; expected a dict of tensors"):
        ReplayCallback(memory()).on_train_batch_end(None, None, None, torch.zeros(2), 0)
