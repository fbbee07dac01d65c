"""A store as a data set of PyTorch, and to and from `datasets`.

python examples/data_sets.py
"""

import datasets
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from memreplay import ClassBalanced, Ragged, Reservoir, Store, StoreDataset
from memreplay.integrations.datasets import add_dataset, to_dataset

if __name__ == "__main__":
    images, labels = load_digits(return_X_y=True)
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    table = datasets.Dataset.from_dict(
        {"image": images.astype("uint8"), "label": labels, "text": [names[label] for label in labels]}
    )

    # a data set fills a store, which keeps what its policy wants
    store = Store(100, keep=ClassBalanced(Reservoir()), columns={"text": Ragged()}, seed=0)
    add_dataset(store, table)
    print(store)

    # the rows kept, as a data set of PyTorch: shuffled batches of a DataLoader
    rows = StoreDataset(store)
    loader = DataLoader(rows, batch_size=32, shuffle=True, collate_fn=rows.collate)
    print("batches:", [tuple(batch["image"].shape) for batch in loader])

    # and as a data set of Hugging Face, to filter, to save as parquet, to push to the Hub
    kept = to_dataset(store, text=["text"])
    print(kept.features)
    fives = kept.filter(lambda row: row["text"] == "five")
    print(len(fives), "fives, for example row", fives[0]["id"], "of the data")

    # values come back bit for bit
    again = Store(100, columns={"text": Ragged()})
    add_dataset(again, kept)
    print("the same:", torch.equal(again.rows()["image"], store.rows()["image"]))
