"""Two processes that train together, each with the same memory.

    torchrun --nproc_per_node 2 examples/two_processes.py

(`accelerate launch --cpu --num_processes 2` starts one process only.)
"""

import torch
from sklearn.datasets import load_digits

from memreplay import CrossEntropy, ReplayCrossEntropy, ReplayMemory, Store, joint_forward
from memreplay.core.loading import batches
from memreplay.core.training import new_accelerator

if __name__ == "__main__":
    accelerator = new_accelerator()
    images, labels = load_digits(return_X_y=True)
    rows = {"input": torch.tensor(images / 16, dtype=torch.float32), "label": torch.tensor(labels)}

    torch.manual_seed(0)
    model = torch.nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loader = batches(rows, 16)  # per process: with two of them a step sees 32 rows
    memory = ReplayMemory(Store(100, seed=0), mix=CrossEntropy() + ReplayCrossEntropy(), replay=16)

    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    memory.attach(accelerator)  # its processes and its checkpoints
    for batch in loader:
        recalled = memory.recall()  # 16 rows in all, of which each process gets its share
        new, old = joint_forward(model, batch, recalled)
        memory.loss(new, old).backward()  # of the rows of all processes
        optimizer.step()
        optimizer.zero_grad()
        memory.remember(**batch)  # only rows that will be kept travel

    held = accelerator.gather(memory.source.ids)
    same = bool((held.view(accelerator.num_processes, -1) == memory.source.ids).all())
    right = (accelerator.unwrap_model(model)(rows["input"]).argmax(1) == rows["label"]).float().mean()
    accelerator.print(f"{accelerator.num_processes} processes, the same {len(memory.source)} rows in each: {same}")
    accelerator.print(f"rows offered: {memory.source.seen} of {len(labels)}; {right:.1%} right")
    accelerator.end_training()
