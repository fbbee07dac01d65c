"""Memory on disk: columns mapped to files while a program runs, and a save that another program loads.

python examples/memory_on_disk.py
"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits

from memreplay import ClassBalanced, Half, Reservoir, Store

if __name__ == "__main__":
    images, labels = load_digits(return_X_y=True)
    batch = {"image": torch.tensor(images, dtype=torch.float32), "label": torch.tensor(labels)}

    with tempfile.TemporaryDirectory() as folder:
        # path= is where columns live that do not fit in RAM: scratch files, which a save does not need
        store = Store(
            1000,
            keep=ClassBalanced(Reservoir()),
            columns={"image": Half()},
            path=Path(folder, "scratch"),
            seed=0,
        )
        store.add(batch)
        print(
            f"{len(store)} rows, {store.nbytes / 1e3:.0f} kB, in", *(f.name for f in Path(folder, "scratch").iterdir())
        )

        # a save is complete or absent, checked byte for byte when it is read, and never pickled
        store.save(Path(folder, "saved"))
        print("saved as", *sorted(f.name for f in Path(folder, "saved").iterdir()))

        # it goes on where it was: the same rows are kept and drawn as if it had never stopped
        again = Store.load(Path(folder, "saved"))
        store.add(batch)
        again.add(batch)
        same = torch.equal(store.rows().ids, again.rows().ids) and torch.equal(store.draw(9).ids, again.draw(9).ids)
        print("goes on as the first does:", same)

        # what shall be forgotten leaves the memory, and the next save
        print("rows of the digit 3 forgotten:", again.forget(label=3))
        again.save(Path(folder, "saved"))
        print("classes saved:", list(Store.load(Path(folder, "saved")).summary()["classes"]))
