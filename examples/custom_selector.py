"""A selector of your own, for keeping and for recalling: a class with one method.

python examples/custom_selector.py
"""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits

from memreplay import ClassBalanced, Nearest, Store


@dataclass(frozen=True)
class LeastInk:
    """Keeps the rows with the smallest sum: a row's key is known when it arrives, and the highest keys stay."""

    column: str = "image"

    def key(self, batch, generator):
        return -batch[self.column].double().sum(1)


@dataclass(frozen=True)
class FarthestApart:
    """Recalls rows that are far from each other: what comes next depends on what was chosen, so it sees the pool."""

    column: str = "image"
    needs = ("image",)  # the columns that it reads

    def select(self, pool, k, *, query=None, generator):
        rows = pool[self.column].float()
        chosen = [int(torch.randint(len(rows), (1,), generator=generator))]  # never the global random numbers
        distance = torch.cdist(rows, rows)
        while len(chosen) < min(k, len(rows)):
            chosen.append(int(distance[:, chosen].amin(1).argmax()))
        return torch.tensor(chosen)


if __name__ == "__main__":
    images, labels = load_digits(return_X_y=True)
    batch = {"image": torch.tensor(images), "label": torch.tensor(labels)}

    store = Store(50, keep=ClassBalanced(LeastInk()), seed=0)  # five of each digit, the ones with the least ink
    store.add(batch)
    print("ink of all images:", round(batch["image"].sum(1).mean().item(), 1))
    print("ink of those kept:", round(store.rows()["image"].sum(1).mean().item(), 1))

    rows = store.draw(10, by=FarthestApart())
    print("digits of ten rows far apart:", sorted(rows["label"].tolist()))
    nearest = store.draw(3, by=Nearest("image"), query={"image": batch["image"][:1]})
    print("digits of the three rows nearest to a 0:", nearest["label"].tolist())

    store.save("least-ink")
    again = Store.load("least-ink", keep=ClassBalanced(LeastInk()))  # a save names a policy of yours, you hand it over
    print("saved and loaded:", again)
