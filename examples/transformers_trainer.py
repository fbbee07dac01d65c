"""Replay within `transformers.Trainer`: a small vision transformer learns six digits, then four more.

python examples/transformers_trainer.py
"""

import tempfile

import numpy as np
import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from memreplay import ClassBalanced, ReplayCrossEntropy, ReplayMemory, Reservoir, Store
from memreplay.integrations.transformers import ReplayCallback

VIT = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 32, "num_hidden_layers": 1}
SETTINGS = {
    "learning_rate": 3e-3,
    "lr_scheduler_type": "constant",
    "report_to": [],
    "disable_tqdm": True,
    "save_strategy": "no",
}


def learn(model, rows, epochs, callbacks):
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(folder, per_device_train_batch_size=32, num_train_epochs=epochs, **SETTINGS)
        Trainer(model=model, args=args, train_dataset=rows, callbacks=callbacks).train()


def run(remembered: int) -> tuple[float, float]:
    """Accuracy on the first six digits and on the other four, after both were learned."""
    set_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 1, 8, 8).astype(np.float32)
    rows = [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, labels, strict=True)]
    learned, tested = rows[:1200], rows[1200:]
    config = ViTConfig(**VIT, num_attention_heads=4, intermediate_size=64, num_labels=10)
    model = ViTForImageClassification(config)

    # the Trainer computes the loss of new rows itself; the mix holds what is added to it
    store = Store(remembered, keep=ClassBalanced(Reservoir())) if remembered else None
    memory = ReplayMemory(store, mix=ReplayCrossEntropy(), replay=64)
    callback = ReplayCallback(memory, remember=["pixel_values", "label"])
    learn(model, [row for row in learned if row["labels"] < 6], 10, [callback])
    learn(model, [row for row in learned if row["labels"] >= 6], 4, [callback])

    with torch.no_grad():
        answers = model.eval()(torch.tensor(np.stack([row["pixel_values"] for row in tested]))).logits.argmax(1)
    label = torch.tensor([row["labels"] for row in tested])
    right = (answers == label).float()
    return right[label < 6].mean().item(), right[label >= 6].mean().item()


if __name__ == "__main__":
    for remembered in (0, 100):
        old, new = run(remembered)
        print(f"{remembered:>3} images remembered: {old:.1%} of the old digits right, {new:.1%} of the new ones")
