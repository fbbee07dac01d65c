"""Pascal VOC 2007 + 2012 at full size: splits 1 to 3 of few-shot detection, 1 to 10 boxes, ResNet-101 with FPN.

The folder with the data has ``VOC2007`` and ``VOC2012`` as VOC's archives unpack them; ``resnet101.pth``, ImageNet
weights under torchvision's names; and, where they are to be used, the published lists of images (``vocsplit`` or
``vocsplit.zip``). The docs page "Detection at paper scale" says what to type, and what it takes.

The published figures are AP50 as VOC 2007 measures it, with the same backbone: fine-tuning of all layers and TFA with
cosines, means over 30 draws of boxes, from the model zoo of TFA (Wang et al., Frustratingly Simple Few-Shot Object
Detection, ICML 2020); Retentive R-CNN (Fan et al., CVPR 2021), beside ``distill``; NIFF (Guirguis et al., CVPR 2023),
beside ``gaussian``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ..base import BaseTraining
from ..faster_rcnn import FasterRCNN
from ..few_shot import GROUPS, NAMES, FewShot, Table, fill_in
from ..folder import Folder
from ..parts import Parts
from ..prototypes import PrototypeCalibration
from ..shots import read_published
from ..tuning import FineTuning
from ..voc import CLASSES, Voc

SPLITS = {
    1: ("bird", "bus", "cow", "motorbike", "sofa"),
    2: ("aeroplane", "bottle", "cow", "horse", "sofa"),
    3: ("boat", "cat", "motorbike", "sheep", "sofa"),
}
"""The novel classes."""

SHOTS = (1, 2, 3, 5, 10)
TRAIN = ("2007/trainval", "2012/trainval")
VALIDATION = 1000

PLAN = FewShot(
    FasterRCNN("resnet101", fixed=5),
    BaseTraining(steps=18000, images=16, lr=0.02, warmup=1000),
    FineTuning(steps=2000, images=16, regions=512, replay=512),
    PrototypeCalibration("resnet101"),
    shots=SHOTS,
    objects=15000,
    background=5000,
    moments=(50, 100, 500, 1000, 2000),
    voc=True,
)

# base, novel and all AP50 for 1, 2, 3, 5 and 10 boxes
_FINETUNE = {
    1: ((62.6, 60.7, 61.3, 60.6, 59.8), (9.9, 15.6, 21.6, 28.0, 35.6), (49.4, 49.4, 51.4, 52.5, 53.8)),
    2: ((63.2, 61.6, 61.0, 60.4, 59.8), (9.4, 13.8, 17.4, 21.9, 29.8), (49.7, 49.7, 50.1, 50.8, 52.3)),
    3: ((63.7, 62.4, 62.1, 61.0, 60.5), (8.1, 13.9, 19.0, 23.9, 31.0), (49.8, 50.2, 51.3, 51.7, 53.1)),
}
_TFA = {
    1: ((77.6, 77.3, 77.3, 77.4, 77.5), (25.3, 36.4, 42.1, 47.9, 52.9), (64.5, 67.1, 68.5, 70.1, 71.3)),
    2: ((73.8, 74.9, 75.6, 76.2, 76.9), (18.3, 27.5, 30.9, 34.1, 39.5), (59.9, 63.0, 64.5, 65.7, 67.6)),
    3: ((78.7, 78.4, 78.6, 78.5, 78.6), (17.9, 27.2, 34.3, 40.8, 45.6), (63.5, 65.6, 67.5, 69.1, 70.3)),
}
_BASE = {1: 80.8, 2: 81.9, 3: 82.0}
_ALL_OF_SPLIT_1 = {"distill": (71.3, 72.3, 72.1, 74.0, 74.6), "gaussian": (75.6, 76.5, 76.7, 77.4, 76.9)}


def published(split: int) -> dict[tuple[str, str], float]:
    """The published figures of a split, by row and metric."""
    found = {("base detector", "base VOC AP50"): _BASE[split]}
    for at, shot in enumerate(SHOTS):
        for name, figures in (("finetune", _FINETUNE[split]), ("tfa", _TFA[split])):
            for group, values in zip(GROUPS, figures, strict=True):
                found[f"{name}, {shot} shot", f"{group} VOC AP50"] = values[at]
        if split == 1:
            for name, of_all in _ALL_OF_SPLIT_1.items():
                found[f"{name}, {shot} shot", "all VOC AP50"] = of_all[at]
    return found


def reproduce(
    *,
    seeds: int | None,
    data: Path | None,
    out: Path,
    only: Sequence[str],
    plan: FewShot = PLAN,
    images: int | None = None,
) -> Results:
    """Runs the tables.

    Args:
        seeds: draws of boxes, with published lists those of TFA's seeds 0, 1, ...; 10 by default.
        data: the folder with the data.
        out: folder for results, and for all that is done on the way; detectors that know the base classes are taken
            from ``split-1/base`` and so on in it, if they are there.
        only: splits, such as ``split-1``; names of methods, ``base`` or ``curves``, see `fill_in`.
        plan: how much is done.
        images: of each of the sets, at most; None: all.

    Raises:
        ValueError: there are no data, or an unknown name.
    """
    count = 10 if seeds is None else seeds
    splits = {f"split-{split}": split for split in SPLITS}
    check_asked(only, [*splits, *NAMES], count)
    folder = Folder.holding("VOC2007", data, "VOC2007, VOC2012 and resnet101.pth")
    parts = Parts.load(Voc(folder.root, list(TRAIN)), Voc(folder.root, ["2007/test"]), VALIDATION, images)
    plan = plan.weighted(folder.first("resnet101.pth"))
    lists = folder.first("vocsplit", "vocsplit.zip")
    results = Results("detection/voc", {"base_steps": plan.base.steps, "lists": lists is not None})
    methods = [name for name in only if name not in splits]
    for name, split in splits.items():
        if any(chosen in splits for chosen in only) and name not in only:
            continue
        novel = SPLITS[split]
        base = [known for known in CLASSES if known not in novel]
        listed = None if lists is None else partial(read_published, lists, parts.learned, novel)
        table = Table(plan, base, novel, parts, Path(out, name), listed)
        fill_in(
            results,
            table,
            count,
            methods,
            metrics=("VOC AP50", "AP50"),
            published=published(split),
            prefix=f"{name}, ",
        )
        results.save(out)
    results.save(out)
    results.print(decimals=1)
    return results
