"""The callback for transformers.Trainer, beside a loop written out."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memreplay import (
    AGem,
    CrossEntropy,
    LogitDistillation,
    Ragged,
    ReplayCrossEntropy,
    ReplayMemory,
    Store,
    UncertaintyWeighting,
)
from memreplay.core.batch import jagged

transformers = pytest.importorskip("transformers")
from memreplay.integrations.transformers import ReplayCallback, _Padded, columns  # noqa: E402

PAD = 0


def model(double: bool = True) -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=3,
        pad_token_id=PAD,
    )
    made = transformers.BertForSequenceClassification(config)
    return made.double() if double else made


def data(n: int = 24) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    rows = []
    for i in range(n):
        length = int(torch.randint(2, 7, (1,), generator=generator))
        rows.append(
            {
                "input_ids": torch.randint(1, 20, (length,), generator=generator).tolist(),
                "labels": i % 3,
            }
        )
    return rows


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    tokens, mask = padded([row["input_ids"] for row in rows])
    return {"input_ids": tokens, "attention_mask": mask, "labels": torch.tensor([row["labels"] for row in rows])}


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    tokens = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return tokens, mask


class InOrder(transformers.Trainer):
    """Batches in the order of the data, so that a loop can be written out beside it; the loss of accumulated batches is
    their mean, which for classifiers has to be said (transformers 5.23)."""

    loss_is_scaled_for_ga = False

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trainer(out: Path, callback: Any = None, net: Any = None, rows: Any = None, **options: Any) -> Any:
    arguments: dict[str, Any] = {
        "output_dir": str(out),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.3,
        "optim": "sgd",
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    return InOrder(
        model=net or model(),
        args=transformers.TrainingArguments(**{**arguments, **options}),
        train_dataset=rows or data(),
        eval_dataset=data(5),
        data_collator=collate,
        callbacks=[callback] if callback else [],
    )


def memory(**options: Any) -> ReplayMemory:
    store = Store(10, columns={"input_ids": Ragged()}, seed=0)
    return ReplayMemory(store, mix=0.7 * ReplayCrossEntropy(), replay=3, **options)


def written_out(accumulate: int, replay: bool) -> tuple[nn.Module, ReplayMemory]:
    """What the Trainer and the callback shall do, in plain PyTorch."""
    net, rows, held = model(), data(), memory()
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    batches = [collate(rows[i : i + 4]) for i in range(0, len(rows), 4)]
    for start in range(0, len(batches), accumulate):
        window = batches[start : start + accumulate]
        recalled = held.recall() if replay else None
        if recalled is not None:
            old = recalled["replay"]
            tokens, mask = padded([row.tolist() for row in old["input_ids"].unbind()])
            logits = net(input_ids=tokens, attention_mask=mask).logits
            (0.7 * F.cross_entropy(logits, old["label"])).backward()
        for batch in window:
            (net(**batch).loss / len(window)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.3)
        optimizer.step()
        optimizer.zero_grad()
        for batch in window:
            lengths = batch["attention_mask"].sum(1).tolist()
            tokens = [row[:n] for row, n in zip(batch["input_ids"], lengths, strict=True)]
            held.remember(input_ids=jagged(tokens), label=batch["labels"])
    return net, held


def equal(a: nn.Module, b: nn.Module, **how: float) -> None:
    for (name, x), y in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, msg=name, **how)


@pytest.mark.parametrize("accumulate", [1, 2, 4])  # 6 batches: with 4, the last step has two of them
def test_a_run_equals_the_loop_written_out(tmp_path: Path, accumulate: int) -> None:
    held = memory()
    run = trainer(tmp_path, ReplayCallback(held), gradient_accumulation_steps=accumulate)
    run.train()
    net, expected = written_out(accumulate, replay=True)
    equal(run.model, net, rtol=1e-9, atol=1e-12)
    assert held.source.rows().ids.tolist() == expected.source.rows().ids.tolist()
    assert torch.equal(held.source.rows()["label"], expected.source.rows()["label"])
    without, _ = written_out(accumulate, replay=False)
    assert not torch.allclose(next(run.model.parameters()), next(without.parameters()), rtol=1e-5)


def test_with_nothing_to_recall_a_run_is_one_without_a_memory(tmp_path: Path) -> None:
    plain = trainer(tmp_path)
    plain.train()
    run = trainer(tmp_path, ReplayCallback(ReplayMemory(memory().source, mix=ReplayCrossEntropy(), replay=0)))
    run.train()
    equal(run.model, plain.model, rtol=0, atol=0)


def test_logits_are_remembered_and_the_terms_logged(tmp_path: Path) -> None:
    store = Store(50, columns={"input_ids": Ragged()}, seed=0)
    held = ReplayMemory(store, mix=ReplayCrossEntropy() + LogitDistillation(), replay=3)
    net = model()
    before = copy.deepcopy(net)
    run = trainer(tmp_path, ReplayCallback(held, remember=["input_ids", "label", "logits"]), net, data(4) * 2)
    run.train()
    tokens, mask = padded([row["input_ids"] for row in data(4)])
    torch.testing.assert_close(store.rows(range(4))["logits"], before(tokens, mask).logits.detach())
    told = [entry for entry in run.state.log_history if "replay/logit_distillation" in entry]
    assert len(told) == 1
    assert told[0]["replay/replay_cross_entropy"] > 0


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = memory()
    run = trainer(tmp_path / "whole", ReplayCallback(whole), save_strategy="steps", save_steps=3)
    run.train()
    held = memory()
    again = trainer(tmp_path / "whole", ReplayCallback(held), save_strategy="steps", save_steps=3)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    equal(run.model, again.model, rtol=0, atol=0)
    assert held.source.rows().ids.tolist() == whole.source.rows().ids.tolist()
    elsewhere = trainer(tmp_path / "elsewhere", ReplayCallback(memory()))
    with pytest.raises(ValueError, match=r"goes on from step 3.*memory is empty"):
        elsewhere.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))


def test_evaluation_is_not_remembered(tmp_path: Path) -> None:
    held = memory()
    run = trainer(tmp_path, ReplayCallback(held), eval_strategy="steps", eval_steps=2)
    run.train()
    run.evaluate()
    assert held.source.seen == 24


def test_low_rank_adapters_are_trained_with_replay(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], lora_dropout=0.0)
    held = memory()
    with_memory = trainer(tmp_path, ReplayCallback(held), peft.get_peft_model(model(double=False), config))
    with_memory.train()
    assert held.source.seen == 24
    assert held.step == 5  # every step but the first recalls
    frozen = [p for name, p in with_memory.model.named_parameters() if "base_layer" in name]
    assert frozen
    assert all(p.grad is None for p in frozen)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_padded_as_the_tokenizer_pads(side: str) -> None:
    tokens = torch.tensor([[9, 9, 5], [1, 2, 3]] if side == "left" else [[5, 9, 9], [1, 2, 3]])
    given = {"input_ids": tokens, "attention_mask": (tokens != 9).long(), "labels": torch.tensor([0, 1])}
    rows = columns(given)
    assert [row.tolist() for row in rows["input_ids"].unbind()] == [[5], [1, 2, 3]]
    called: dict[str, Tensor] = {}

    class Model(nn.Module):
        config = SimpleNamespace(pad_token_id=9)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
            called.update(input_ids=input_ids, attention_mask=attention_mask)
            return {"logits": input_ids}

    made = Model()
    _Padded(made, SimpleNamespace(padding_side=side))(made, rows)
    assert {name: values.tolist() for name, values in called.items()} == {name: given[name].tolist() for name in called}


def test_images_need_no_ragged_columns(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=2,
    )
    rows = [{"pixel_values": torch.randn(1, 8, 8), "labels": i % 2} for i in range(8)]
    held = ReplayMemory(Store(8), mix=ReplayCrossEntropy(), replay=2)
    run = trainer(tmp_path, ReplayCallback(held), transformers.ViTForImageClassification(config), rows)
    run.data_collator = transformers.default_data_collator
    run.train()
    assert held.source.rows()["pixel_values"].shape == (8, 1, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": CrossEntropy() + ReplayCrossEntropy()}, r"mix has \[CrossEntropy.*expected terms on recalled rows"),
        ({"mix": UncertaintyWeighting(ReplayCrossEntropy())}, "with parameters"),
        ({"mix": CrossEntropy() + ReplayCrossEntropy(), "project": AGem()}, "mix has"),
    ],
)
def test_what_a_callback_cannot_do_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReplayCallback(ReplayMemory(Store(5), **options))


def test_labels_that_the_trainer_takes_away(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without labels; label smoothing"):
        trainer(tmp_path, ReplayCallback(memory()), label_smoothing_factor=0.1).train()


def test_texts_in_a_store_without_a_ragged_column(tmp_path: Path) -> None:
    held = ReplayMemory(Store(5), mix=ReplayCrossEntropy())
    with pytest.raises(ValueError, match=r"differing length; declare columns=\{'input_ids': Ragged"):
        trainer(tmp_path, ReplayCallback(held)).train()
