"""Coco: images with boxes in COCO's JSON format, read and written."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data import DetectionData, DetectionSet, ImageFiles, picture_of, warn_of


@dataclass(frozen=True)
class Coco(DetectionData):
    """A data set in COCO's JSON format.

    Boxes with ``iscrowd`` or ``ignore`` count as hard. Boxes are cut at the borders of the image; those without area in
    it are left out with a warning.

    Args:
        annotations: the JSON file.
        images: the folder or zip file with the images; null: the folder of the JSON file.
        classes: those to use, in this order; null: all, by their id.
    """

    annotations: Path
    images: Path | None = None
    classes: list[str] | None = None

    def load(self) -> DetectionSet:
        """Reads the annotations, and of the images nothing yet.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: the file is no such JSON; a box has an unknown category or image.
        """
        path = Path(self.annotations)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            categories = sorted((int(entry["id"]), str(entry["name"])) for entry in found["categories"])
            images = found["images"]
            boxes = found.get("annotations", [])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"annotations is {str(path)!r}, which is not in COCO's format: {error!r}") from error
        places = {number: place for place, (number, _) in enumerate(categories)}
        by_image = defaultdict(list)
        known = {entry["id"] for entry in images}
        for box in boxes:
            if box["category_id"] not in places:
                raise ValueError(
                    f"annotation {box.get('id')} in {path} has category_id {box['category_id']}; "
                    f"expected one of {sorted(places)}"
                )
            if box["image_id"] not in known:
                raise ValueError(
                    f"annotation {box.get('id')} in {path} is on image {box['image_id']}, which is not there"
                )
            by_image[box["image_id"]].append(box)
        pictures, dropped = [], []
        for entry in sorted(images, key=lambda entry: int(entry["id"])):
            own = by_image[entry["id"]]
            picture, lost = picture_of(
                str(entry["file_name"]),
                (int(entry["height"]), int(entry["width"])),
                [_corners(box["bbox"]) for box in own],
                [places[box["category_id"]] for box in own],
                [bool(box.get("iscrowd") or box.get("ignore")) for box in own],
            )
            pictures.append(picture)
            dropped += lost
        warn_of(dropped)
        data = DetectionSet([name for _, name in categories], pictures, ImageFiles(self.images or path.parent))
        return data if self.classes is None else data.of(self.classes, empty=True)


def _corners(box: Sequence[float]) -> list[float]:
    if len(box) != 4:
        return list(box)
    x, y, width, height = map(float, box)
    return [x, y, x + width, y + height]


def as_coco(data: DetectionSet) -> dict[str, Any]:
    """A data set in COCO's format: images are numbered from 0 and categories from 1, in their order."""
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(data.pictures):
        for box, label, hard in zip(
            picture.boxes.tolist(), picture.labels.tolist(), picture.hard.tolist(), strict=True
        ):
            left, top, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": int(hard),
                }
            )
    return {
        "info": {},
        "images": [
            {"id": number, "file_name": picture.name, "height": picture.size[0], "width": picture.size[1]}
            for number, picture in enumerate(data.pictures)
        ],
        "annotations": annotations,
        "categories": [{"id": place + 1, "name": name} for place, name in enumerate(data.classes)],
    }
