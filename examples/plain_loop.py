"""A plain PyTorch loop: six handwritten digits, then four more from five images each, with and without a memory.

python examples/plain_loop.py
"""

import torch
from sklearn.datasets import load_digits

from memreplay import ClassBalanced, CrossEntropy, ReplayCrossEntropy, ReplayMemory, Reservoir, Store, joint_forward


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (1797, 64), labels, and which of them are for testing."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels), torch.arange(len(labels)) % 3 == 0


def train(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, memory: ReplayMemory, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        rows = torch.randint(len(labels), (32,))
        batch = {"input": images[rows], "label": labels[rows]}
        recalled = memory.recall()  # 32 rows; None while the memory is empty
        new, old = joint_forward(model, batch, recalled)  # one forward of new and recalled rows
        memory.loss(new, old).backward()
        optimizer.step()
        optimizer.zero_grad()
        memory.remember(**batch)


def run(remembered: int) -> tuple[float, float]:
    """Accuracy on the first six digits and on the other four, after both were learned."""
    torch.manual_seed(0)
    images, labels, test = digits()
    first = labels < 6
    shots = torch.cat([torch.nonzero((labels == digit) & ~test)[:5, 0] for digit in range(6, 10)])
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    store = Store(remembered, keep=ClassBalanced(Reservoir())) if remembered else None
    memory = ReplayMemory(store, mix=CrossEntropy() + ReplayCrossEntropy())
    train(model, images[first & ~test], labels[first & ~test], memory, steps=300)
    train(model, images[shots], labels[shots], memory, steps=60)
    right = (model(images).argmax(1) == labels).float()
    return right[first & test].mean().item(), right[~first & test].mean().item()


if __name__ == "__main__":
    for remembered in (0, 60):
        old, new = run(remembered)
        print(f"{remembered:>2} images remembered: {old:.1%} of the old digits right, {new:.1%} of the new ones")
