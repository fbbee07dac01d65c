"""Trials: whether packages work, tried in a process of its own: a package that takes its process down is a finding like
any other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

DEVICE, LOOPS = "device", "compiled loops"
"""What can be tried beside packages."""
_PATIENCE = 300.0
"""Seconds for all answers of a process."""
_MODULES = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "faiss-cpu": "faiss"}
"""Packages whose module has another name."""


class Answer(NamedTuple):
    """What trying something gave.

    Attributes:
        detail: more about what works.
        fault: what is wrong, in one line; empty if it works.
        absent: whether its module is not there.
    """

    detail: str = ""
    fault: str = ""
    absent: bool = False


def ask(names: Sequence[str]) -> dict[str, Answer]:
    """Tries packages, by the names they are installed by, one after the other in a process, which a new one follows
    where it comes to an end.
    """
    answers: dict[str, Answer] = {}
    left = list(names)
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    while left:
        try:
            ended = subprocess.run(
                [sys.executable, "-P", "-m", __name__, *left],
                env={**os.environ, "PYTHONPATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_PATIENCE,
            )
            told, fate = ended.stdout, _fate(ended.returncode)
        except subprocess.TimeoutExpired as late:
            told, fate = late.stdout or b"", f"gave no answer within {_PATIENCE:.0f} seconds"
        lines = told.splitlines()
        answers.update((name, Answer(**json.loads(line))) for name, line in zip(left, lines, strict=False))
        left = left[len(lines) :]
        if left:  # the first of these is what the process came to an end over
            answers[left.pop(0)] = Answer(fault=f"the process that tried it {fate}")
    return answers


def _fate(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _main(names: Sequence[str]) -> None:
    """Tries ``names``, and writes a line of JSON about each as soon as it is known."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what packages print is not for whoever asked
        for name in names:
            print(json.dumps(_tried(name)._asdict()), file=out, flush=True)


def _tried(name: str) -> Answer:
    module = _MODULES.get(name.lower(), name.lower().replace("-", "_"))
    try:
        if name in _TRIALS:
            return Answer(_TRIALS[name]() or "")
        import_module(module)
        return Answer()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        absent = isinstance(error, ModuleNotFoundError) and error.name == module
        return Answer(fault=f"{type(error).__name__}: {lines[0]}"[:300], absent=absent)


# -- what shows that a package works: where it has a compiled part, that is used ---------------------------------------


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        built = "sees no GPU" if torch.version.cuda else "is built without CUDA"
        return f"cpu, {os.cpu_count()} cores; torch {torch.__version__} {built}"
    found = []
    for number in range(torch.cuda.device_count()):
        on = torch.eye(2, device=f"cuda:{number}")
        _expect("a product on the GPU", float((on @ on).sum()), 2.0)
        bytes_of = torch.cuda.get_device_properties(number).total_memory
        found.append(f"cuda:{number}, {torch.cuda.get_device_name(number)}, {bytes_of / 2**30:.0f} GiB")
    return f"{'; '.join(found)}; torch {torch.__version__}, CUDA {torch.version.cuda}"


def _torch() -> None:
    import torch

    _expect("a product", float((torch.eye(2) @ torch.eye(2)).sum()), 2.0)


def _torchvision() -> None:
    nms = import_module("torchvision.ops").nms
    import torch

    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]], device=device)
        kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)
        _expect(f"torchvision.ops.nms on {device}", kept.tolist(), [0, 2])


def _detectron2() -> None:
    import torch

    layers = import_module("detectron2.layers")
    import_module("detectron2.modeling")
    boxes = torch.tensor([[1.0, 1.0, 2.0, 2.0, 0.0], [1.0, 1.0, 2.0, 1.9, 0.0], [9.0, 9.0, 1.0, 1.0, 0.0]])
    kept = layers.nms_rotated(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    _expect("detectron2.layers.nms_rotated", kept.tolist(), [0, 2])


def _faiss() -> None:
    import numpy as np

    index = import_module("faiss").IndexFlatIP(2)
    index.add(np.eye(2, dtype=np.float32))
    _expect("a search by faiss", index.search(np.array([[0.0, 3.0]], np.float32), 1)[1].tolist(), [[1]])


def _transformers() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer, BertConfig

    small = BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    states = AutoModel.from_config(small)(torch.zeros(1, 3, dtype=torch.int64)).last_hidden_state
    _expect(f"a model beside {AutoTokenizer.__name__}", list(states.shape), [1, 3, 4])


def _datasets() -> None:
    from datasets import Dataset

    _expect("a row of a data set", Dataset.from_dict({"text": ["a"]})[0], {"text": "a"})


def _pycocotools() -> None:
    import numpy as np

    mask = import_module("pycocotools.mask")
    encoded = mask.encode(np.asfortranarray(np.ones((3, 2), np.uint8)))
    _expect("the area of a mask", int(mask.area(encoded)), 6)


def _compiled_loops() -> None:
    import torch

    from .core.loops import loops
    from .core.retrievers import scan
    from .core.stores import Store

    if loops is None or scan.compiled is None:
        raise ModuleNotFoundError("they were not built, or from other source code", name=LOOPS)
    store = Store(8, seed=0)
    for start in range(0, 64, 16):
        number = torch.arange(start, start + 16)
        store.add({"feature": number[:, None].float() - 31.5, "label": number})
    rows = store.draw(8)
    _expect("rows drawn", (rows["feature"][:, 0] + 31.5).tolist(), rows.ids.tolist())
    scores, _ = store.search({"feature": torch.tensor([[2.0]])}, 1)
    _expect("a search", round(float(scores[0, 0]), 6), 1.0 if bool((rows.ids > 31).any()) else -1.0)


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise RuntimeError(f"{what} gave {found}; expected {expected}")


_TRIALS: dict[str, Callable[[], str | None]] = {
    DEVICE: _device,
    LOOPS: _compiled_loops,
    "torch": _torch,
    "torchvision": _torchvision,
    "detectron2": _detectron2,
    "faiss-cpu": _faiss,
    "transformers": _transformers,
    "datasets": _datasets,
    "pycocotools": _pycocotools,
}


if __name__ == "__main__":
    _main(sys.argv[1:])
