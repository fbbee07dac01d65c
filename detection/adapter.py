"""DetectionAdapter: a detector that is saved, taught new classes and made to forget, with its memory of regions."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.batch import take
from ..core.protocols.seeding import generator_at
from ..core.readout import KNearest
from ..core.reporting import explain
from ..core.reporting.cases import Case, spread, telling
from ..core.reporting.picture import data_uri
from ..core.stores import Store
from ..core.stores.files import read_save, write_save
from .data import DetectionSet
from .detections import Detections
from .detector import Detector
from .evaluation import detect
from .faster_rcnn import FasterRCNN
from .memory import ROIMemory
from .prototypes import PrototypeCalibration, Prototypes
from .regions import crop, extract
from .tuning import FineTuning

KIND = "memreplay detection adapter"


class DetectionAdapter:
    """A detector with named classes and a memory of their regions. Old images are never needed again.

    Every class has a number, that of its logit, which is never given to another. Classes are in the order in which they
    were learned: those of the first training, then the others as they came.

    Args:
        architecture: what the detector was built by.
        detector: knows the classes.
        names: of the classes, in order.
        memory: of their regions; None where there is none, and new classes are learned without.

    In three lines, once it is saved: ``adapter = DetectionAdapter.load(folder)``, ``adapter.add_classes(shots)``,
    ``adapter.predict([image])``.
    """

    def __init__(
        self,
        architecture: FasterRCNN,
        detector: Detector,
        names: Sequence[str],
        memory: ROIMemory | None = None,
    ) -> None:
        self.architecture = architecture
        self.detector = detector
        self.names: dict[int, str] = dict(enumerate(names))
        """The classes by number."""
        self.base = list(names)
        """The classes that were learned first."""
        self.memory = memory
        if len(names) != detector.classes:
            raise ValueError(f"names has {len(names)} classes; the detector has {detector.classes}")

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return list(self.names.values())

    # -- learning -----------------------------------------------------------------------------------------------------

    def add_classes(
        self,
        data: DetectionSet,
        tuning: FineTuning = FineTuning(),  # noqa: B008 (immutable)
        *,
        seed: int = 0,
        **options: Any,
    ) -> float:
        """Teaches new classes from a few boxes of each, or old ones from more. Of old images nothing is read.

        Args:
            data: images with boxes. What is not marked on them counts as background, see `FineTuning.unmarked`.
            tuning: how; without a memory only ``finetune`` and ``tfa`` can be used. Where the backbone learns too, the
                memory no longer fits it afterwards and must be filled anew.
            seed: of the order of the data and of the first weights.
            options: for `FineTuning.tune`.

        Returns:
            Seconds spent learning.

        Raises:
            ValueError: there are no boxes of a class; see `FineTuning.tune`. The adapter is unchanged.
        """
        lacking = [name for name, count in data.counts().items() if not count]
        if lacking:
            raise ValueError(f"data has no box of {lacking[0]!r}; expected at least one of every class")
        added = [name for name in data.classes if name not in self.classes]
        detector = copy.deepcopy(self.detector)
        names = {**self.names, **{detector.classes + i: name for i, name in enumerate(added)}}
        if added:
            detector.grow(len(added), generator_at(seed, "grow"))
        known = self._numbered(data, names)
        progress = tuning.tune(detector, known, self.memory, seed=seed, **options)
        if self.memory is not None and tuning.learns == "head":
            self._remember(detector, known)
        self.detector, self.names = detector, names
        return progress.seconds

    def _numbered(self, data: DetectionSet, names: Mapping[int, str]) -> DetectionSet:
        """``data`` with the numbers of the classes as labels; forgotten numbers have a name that is no class."""
        numbers = {name: number for number, name in names.items()}
        places = torch.tensor([numbers[name] for name in data.classes])
        every = [names.get(number, f"(forgotten {number})") for number in range(1 + max(names))]
        return DetectionSet(every, [replace(p, labels=places[p.labels]) for p in data.pictures], data.files)

    def _remember(self, detector: Detector, data: DetectionSet) -> None:
        """Takes the objects of ``data`` into the memory, which grows so that the old ones keep their room."""
        assert self.memory is not None
        rows = extract(detector, data, thumbnail=self.memory.thumbnail)
        new = take(rows, (rows["label"] >= 0).nonzero()[:, 0])
        held = self.memory.objects
        if isinstance(held, Store):
            classes = set(new["label"].tolist()) - set(self.memory.summary()["classes"])
            held.resize(held.capacity + len(classes) * -(-held.capacity // len(self.names)))
        self.memory.add(new)

    def forget(self, label: str) -> int:
        """Removes a class: its regions, its weights in the predictor, its name. The next `save` replaces the last.

        Layers before the predictor keep what they became by learning the class.

        Returns:
            Rows that left the memory.

        Raises:
            KeyError: there is no such class.
            ValueError: it is the only one.
        """
        if label not in self.classes:
            raise KeyError(f"label is {label!r}; expected one of the classes {self.classes}")
        if len(self.names) == 1:
            raise ValueError(f"label is {label!r}, the only class; expected another to be left")
        number = next(number for number, name in self.names.items() if name == label)
        self.detector.drop(number)
        del self.names[number]
        self.base = [name for name in self.base if name != label]
        return 0 if self.memory is None else self.memory.forget(number)

    # -- predicting ---------------------------------------------------------------------------------------------------

    def explained(self, data: DetectionSet, n: int = 12) -> list[Case]:
        """Detections on images of ``data`` that tell most, with the remembered regions that speak for and against them:
        the vote of the nearest objects, by their pooled features. None without remembered rows.

        Args:
            data: images with boxes; of many images 48 are looked at, evenly spread.
            n: how many detections, at most.
        """
        if self.memory is None or not isinstance(self.memory.objects, Store) or not len(self.memory.objects):
            return []
        part = DetectionSet(data.classes, [data.pictures[i] for i in spread(len(data), 48)], data.files)
        found = [one.above(0.3) for one in detect(self.detector, part)]
        places = [(image, box) for image, one in enumerate(found) for box in range(len(one.boxes))]
        truth = [_truth(part, image, found[image].boxes[box]) for image, box in places]
        label = [self.names[int(found[image].labels[box])] for image, box in places]
        if not places:
            return []
        right = torch.tensor([one == other for one, other in zip(label, truth, strict=True)])
        sure = torch.stack([found[image].scores[box] for image, box in places])
        chosen = telling(right, sure, n)
        rows = self.memory.objects.rows()
        cases = []
        for place in chosen:
            image, box = places[place]
            pixels, one = part.image(image), found[image]
            number = one.labels[box].reshape(1)
            feature = _feature(self.detector, pixels, one.boxes[box].reshape(1, 4), number)
            evidence = explain(rows, feature, KNearest(), number)
            cases.append(
                Case(
                    part.pictures[image].name,
                    data_uri(crop(pixels, one.boxes[box], 96)),
                    truth[place],
                    label[place],
                    round(float(sure[place]), 4),
                    {**evidence.told(0), "memory": "memory.objects."},
                )
            )
        return cases

    def predict(self, images: Sequence[Tensor]) -> list[Detections]:
        """What is on images (3, H, W), uint8 or floats in [0, 1]; labels are the numbers in `names`."""
        device = next(self.detector.parameters()).device
        return self.detector.detect([image.to(device) for image in images])

    # -- saving -------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Writes the adapter: safetensors and a manifest, in one step; the last save stays whole until then.

        Raises:
            OSError: the folder cannot be written.
        """
        tensors = {f"detector.{name}": values for name, values in self.detector.state_dict().items()}
        memory = None
        if self.memory is not None:
            state = self.memory.state_dict()
            tensors |= {f"memory.{name}": values for name, values in state["tensors"].items()}
            memory = state["meta"]
        meta = {
            "kind": KIND,
            "architecture": {**asdict(self.architecture), "weights": None},
            "cosines": self.detector.cosines,
            "logits": self.detector.classes,
            "rounds": list(self.detector.rounds),
            "prototypes": self._prototypes(),
            "classes": {str(number): name for number, name in self.names.items()},
            "base": self.base,
            "memory": memory,
        }
        write_save(Path(folder), tensors, meta)

    def _prototypes(self) -> dict[str, Any] | None:
        """Their calibration, and how many classes they have places for."""
        held = self.detector.prototypes
        return None if held is None else {"calibration": asdict(held.calibration), "classes": len(held.counts)}

    @staticmethod
    def load(folder: str | Path, *, device: torch.device | str = "cpu") -> DetectionAdapter:
        """Reads an adapter written by `save`.

        Raises:
            FileNotFoundError: there is no save.
            ValueError: the save is damaged or something else.
        """
        tensors, meta = read_save(Path(folder))
        if meta.get("kind") != KIND:
            raise ValueError(f"{folder} holds no detection adapter; its kind is {meta.get('kind')!r}")
        try:
            architecture = FasterRCNN(**_tupled(meta["architecture"]))
            detector = architecture.build(int(meta["logits"]))
            if meta["cosines"]:
                detector.use_cosines()
            if (held := meta.get("prototypes")) is not None:
                calibration = PrototypeCalibration(**_tupled(held["calibration"]))
                detector.prototypes = Prototypes(calibration, held["classes"], random=True)
            detector.load_state_dict(_within(tensors, "detector."))
            detector.rounds = tuple(meta.get("rounds", ()))
            adapter = DetectionAdapter(architecture, detector.to(device), [""] * detector.classes)
            adapter.names = {int(number): name for number, name in meta["classes"].items()}
            adapter.base = list(meta["base"])
            if meta["memory"] is not None:
                adapter.memory = ROIMemory.of_state({"tensors": _within(tensors, "memory."), "meta": meta["memory"]})
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"the adapter in {folder} is damaged: {error!r}") from error
        detector.eval()
        return adapter

    def __repr__(self) -> str:
        return f"DetectionAdapter({len(self.names)} classes, {self.architecture.backbone}, {self.memory!r})"


def _truth(data: DetectionSet, image: int, box: Tensor) -> str:
    """The class of the object that a box on an image overlaps by half or more; nothing where there is none."""
    picture = data.pictures[image]
    corner = torch.maximum(picture.boxes[:, :2], box[:2]), torch.minimum(picture.boxes[:, 2:], box[2:])
    shared = (corner[1] - corner[0]).clamp(min=0).prod(1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (picture.boxes, box)]
    overlap = shared / (areas[0] + areas[1] - shared)
    best = int(overlap.argmax()) if len(overlap) else -1
    return data.classes[int(picture.labels[best])] if best >= 0 and overlap[best] >= 0.5 else "nothing"


def _feature(detector: Detector, image: Tensor, box: Tensor, label: Tensor) -> Tensor:
    """What is pooled from a region of an image, flat (1, D): of the regions that the detector samples around the box,
    the one that fits it best.
    """
    device = next(detector.parameters()).device
    batch = {"image": [image], "boxes": [box], "label": [label], "id": [torch.tensor(0)]}
    placed = {name: [values.to(device) for values in column] for name, column in batch.items()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        rows = detector.regions(placed)
    return rows["feature"][rows["iou"].argmax()].flatten()[None].float().cpu()


def _tupled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """As they were before JSON made lists of tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start so, by the rest of their names."""
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
