"""COCO at full size: 60 base classes and the 20 of VOC from 10 and 30 boxes each, ResNet-101 with FPN.

The folder with the data has ``annotations/trainvalno5k.json`` and ``annotations/5k.json``, the division of COCO 2014
that few-shot detection uses; ``images``, a folder or ``images.zip`` with the images of both years; ``resnet101.pth``,
ImageNet weights under torchvision's names; and, where they are to be used, FSRW's lists of images (``cocosplit`` or
``cocosplit.zip``), which are one draw. The docs page "Detection at paper scale" says what to type, and what it takes.

The published figures are COCO's AP with the same backbone, over 10 draws of boxes, from the model zoo of TFA (Wang et
al., Frustratingly Simple Few-Shot Object Detection, ICML 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ..base import BaseTraining
from ..coco import Coco
from ..faster_rcnn import FasterRCNN
from ..few_shot import GROUPS, NAMES, FewShot, Table, fill_in
from ..folder import Folder
from ..parts import Parts
from ..prototypes import PrototypeCalibration
from ..shots import COCO_LISTS, read_published
from ..tuning import FineTuning
from ..voc import CLASSES

IN_COCO = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""VOC's names, which the lists use, and COCO's, where they differ."""

NOVEL = tuple(IN_COCO.get(name, name) for name in CLASSES)
SHOTS = (10, 30)
VALIDATION = 2000

PLAN = FewShot(
    FasterRCNN("resnet101", fixed=5),
    BaseTraining(steps=110000, images=16, lr=0.02, warmup=1000),
    FineTuning(steps=5000, images=16, regions=512, replay=512),
    PrototypeCalibration("resnet101"),
    shots=SHOTS,
    objects=30000,
    background=10000,
    moments=(50, 100, 500, 1000, 5000),
    curve_shot=10,
)

# base, novel and all AP for 10 and 30 boxes
_PUBLISHED = {
    "finetune": ((16.1, 15.6), (5.5, 7.4), (13.4, 13.5)),
    "tfa": ((32.4, 34.2), (9.1, 12.1), (26.6, 28.7)),
}
_BASE = 39.2


def published() -> dict[tuple[str, str], float]:
    """The published figures, by row and metric."""
    found = {("base detector", "base AP"): _BASE}
    for name, figures in _PUBLISHED.items():
        for group, values in zip(GROUPS, figures, strict=True):
            found |= {(f"{name}, {shot} shot", f"{group} AP"): v for shot, v in zip(SHOTS, values, strict=True)}
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
    """Runs the table.

    Args:
        seeds: draws of boxes; 10 by default, with published lists 1, since there is no other list.
        data: the folder with the data.
        out: folder for results, and for all that is done on the way; a detector that knows the base classes is taken
            from ``base`` in it, if it is there.
        only: names of methods, ``base`` or ``curves``, see `fill_in`.
        plan: how much is done.
        images: of each of the sets, at most; None: all.

    Raises:
        ValueError: there are no data, or an unknown name, or more seeds than lists.
    """
    folder = Folder.holding("annotations/trainvalno5k.json", data, "annotations/trainvalno5k.json")
    lists = folder.first("cocosplit", "cocosplit.zip")
    count = (10 if lists is None else 1) if seeds is None else seeds
    check_asked(only, NAMES, count)
    if lists is not None and count > 1:
        raise ValueError(f"seeds is {seeds}; expected 1, as there is one list")
    files = folder.first("images.zip") or folder.root / "images"
    learned, test = (Coco(folder.root / "annotations" / f"{name}.json", files) for name in ("trainvalno5k", "5k"))
    parts = Parts.load(learned, test, VALIDATION, images)
    plan = plan.weighted(folder.first("resnet101.pth"))
    base = [name for name in parts.learned.classes if name not in NOVEL]
    names = {ours: theirs for theirs, ours in IN_COCO.items()}
    listed = None
    if lists is not None:
        listed = partial(read_published, lists, parts.learned, NOVEL, pattern=COCO_LISTS, names=names)
    table = Table(plan, base, NOVEL, parts, Path(out), listed)
    results = Results("detection/coco", {"base_steps": plan.base.steps, "lists": lists is not None})
    fill_in(results, table, count, only, metrics=("AP", "AP50"), published=published())
    results.save(out)
    results.print(decimals=1)
    return results
