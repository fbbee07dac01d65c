"""Regression: alcohol in wine from twelve other measurements, on two grape varieties first, then on a third.

python examples/regression.py
"""

import torch
from sklearn.datasets import load_wine

from memreplay import FeatureDistillation, MeanSquaredError, ReplayMeanSquaredError, ReplayMemory, Store, joint_forward


def forward(model, batch):
    return {"output": model(batch["input"]).squeeze(1)}


def train(model, rows, inputs, targets, memory):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        some = rows[torch.randint(len(rows), (16,))]
        batch = {"input": inputs[some], "target": targets[some]}
        new, old = joint_forward(model, batch, memory.recall(), forward)
        memory.loss(new, old).backward()
        optimizer.step()
        optimizer.zero_grad()
        memory.remember(**batch, output=new.outputs["output"])


def run(remembered: int, seed: int) -> tuple[float, float]:
    """Mean squared errors on the first two varieties and on the third; 1 is the variance of all wines."""
    torch.manual_seed(seed)
    measured, variety = map(torch.tensor, load_wine(return_X_y=True))
    measured = ((measured - measured.mean(0)) / measured.std(0)).float()
    targets, inputs = measured[:, 0], measured[:, 1:]
    shuffled = torch.randperm(len(targets))
    learned, tested = shuffled[:119], shuffled[119:]
    first = variety < 2

    model = torch.nn.Sequential(torch.nn.Linear(12, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    # two terms on what is recalled: the targets of the wines, and what the model said when it met them
    terms = MeanSquaredError() + ReplayMeanSquaredError() + FeatureDistillation(feature="output", stored="output")
    memory = ReplayMemory(Store(remembered) if remembered else None, mix=terms, replay=16)
    train(model, learned[first[learned]], inputs, targets, memory)
    train(model, learned[~first[learned]], inputs, targets, memory)
    with torch.no_grad():
        errors = (forward(model, {"input": inputs})["output"] - targets).square()
    return errors[tested[first[tested]]].mean().item(), errors[tested[~first[tested]]].mean().item()


if __name__ == "__main__":
    for remembered in (0, 30):
        old, new = torch.tensor([run(remembered, seed) for seed in range(3)]).mean(0).tolist()
        print(f"{remembered:>2} wines remembered: error {old:.2f} on the first two varieties, {new:.2f} on the third")
