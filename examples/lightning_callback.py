"""Replay within Lightning's Trainer: a module that knows nothing of it learns six digits, then four more.

python examples/lightning_callback.py
"""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from memreplay import ClassBalanced, ReplayCrossEntropy, ReplayMemory, Reservoir, Store
from memreplay.integrations.lightning import ReplayCallback

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, index):
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def run(remembered: int) -> tuple[float, float]:
    """Accuracy on the first six digits and on the other four, after both were learned."""
    pl.seed_everything(0, verbose=False)
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    test, first = torch.arange(len(labels)) % 3 == 0, labels < 6
    # Lightning's module computes the loss of new rows itself; the mix holds what is added to it
    store = Store(remembered, keep=ClassBalanced(Reservoir())) if remembered else None
    callback = ReplayCallback(ReplayMemory(store, mix=ReplayCrossEntropy(), replay=32))
    model = Classifier()
    for task in (first, ~first):
        rows = TensorDataset(images[task & ~test], labels[task & ~test])
        trainer = pl.Trainer(max_epochs=5, accelerator="cpu", callbacks=[callback], **QUIET)
        trainer.fit(model, DataLoader(rows, batch_size=32, shuffle=True))
    right = (model(images).argmax(1) == labels).float()
    return right[first & test].mean().item(), right[~first & test].mean().item()


if __name__ == "__main__":
    for remembered in (0, 100):
        old, new = run(remembered)
        print(f"{remembered:>3} images remembered: {old:.1%} of the old digits right, {new:.1%} of the new ones")
