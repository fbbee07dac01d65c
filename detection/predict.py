"""Predict: what a saved adapter finds on images, as COCO's JSON and as pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

from ..arguments import command
from .adapter import DetectionAdapter
from .data import ImageFiles
from .detections import Detections
from .pictures import columns, drawn

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def predict(adapter: Path, images: Path, score: float = 0.5, pictures: bool = True, out: Path = Path("found")) -> None:
    """Writes what is found on images to ``detections.json``, in COCO's format with a score, and draws it on them.

    Each category has the number of its regions in the memory as ``remembered``.

    Args:
        adapter: its folder.
        images: an image, or a folder or zip file with some.
        score: detections below it are left out.
        pictures: whether to draw them too, into PNG files.
        out: folder to write to.
    """
    if not 0 <= score <= 1:
        raise ValueError(f"score is {score}; expected a share from 0 to 1")
    files, names = _found(images)
    loaded = DetectionAdapter.load(adapter)
    out.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        image = files.read(name)
        found = loaded.predict([image])[0].above(score)
        entries.append({"id": number, "file_name": name, "height": image.shape[1], "width": image.shape[2]})
        boxes += [{"id": len(boxes) + i, **box} for i, box in enumerate(_boxes(found, number))]
        if pictures:
            target = out / "pictures" / Path(name).with_suffix(".png")
            target.parent.mkdir(parents=True, exist_ok=True)
            drawn(image, found, loaded.names).save(target)
    held = {} if loaded.memory is None else loaded.memory.summary()["classes"]
    categories = [{"id": n, "name": name, "remembered": held.get(n, 0)} for n, name in loaded.names.items()]
    content = {"images": entries, "annotations": boxes, "categories": categories}
    (out / "detections.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{len(boxes)} objects on {len(entries)} images; wrote {out / 'detections.json'}")


def _boxes(found: Detections, number: int) -> Iterator[dict[str, Any]]:
    for box, score, label in zip(*columns(found), strict=True):
        left, top, right, bottom = (round(value, 2) for value in box)
        size = [round(right - left, 2), round(bottom - top, 2)]
        yield {
            "image_id": number,
            "category_id": label,
            "bbox": [left, top, *size],
            "area": round(size[0] * size[1], 2),
            "iscrowd": 0,
            "score": round(score, 4),
        }


def _found(images: Path) -> tuple[ImageFiles, list[str]]:
    """Where the images lie, and their names."""
    if images.is_file() and images.suffix.lower() in SUFFIXES:
        return ImageFiles(images.parent), [images.name]
    if images.is_file() and not is_zipfile(images):
        raise ValueError(f"images is {str(images)!r}; expected an image, a folder or a zip file")
    files = ImageFiles(images)
    if images.is_dir():
        every = [path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()]
    else:
        with ZipFile(images) as archive:
            every = archive.namelist()
    names = sorted(name for name in every if Path(name).suffix.lower() in SUFFIXES)
    if not names:
        raise ValueError(f"images is {str(images)!r}, where there are none; expected {', '.join(sorted(SUFFIXES))}")
    return files, names


def main(args: Sequence[str] | None = None) -> None:
    """The entry point."""
    command(predict, "memreplay detection predict", args)


if __name__ == "__main__":
    main()
