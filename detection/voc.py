"""Voc: images with boxes in the layout of Pascal VOC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from .data import DetectionData, DetectionSet, ImageFiles, Picture, picture_of, warn_of

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True)
class Voc(DetectionData):
    """A data set in the layout of Pascal VOC: ``ROOT/VOC2007/{JPEGImages,Annotations,ImageSets/Main}``.

    Objects marked as difficult count as hard. Pixels are counted from 0 here, where VOC counts from 1.

    Args:
        root: the folder with the years in it, as in ``VOCdevkit``.
        sets: year and list of images, such as ``2007/trainval``; several are put together.
        classes: those to use, in this order; null: VOC's twenty, by the alphabet.
    """

    root: Path
    sets: list[str]
    classes: list[str] | None = None

    def load(self) -> DetectionSet:
        """Reads the annotations, and of the images nothing yet.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, or names an unknown class.
        """
        classes = list(CLASSES)
        pictures, dropped = [], []
        for name in self.sets:
            year, _, split = name.partition("/")
            folder = Path(self.root, f"VOC{year}")
            listed = (folder / "ImageSets" / "Main" / f"{split}.txt").read_text(encoding="utf-8").split()
            for image in listed:
                picture, lost = _picture(folder / "Annotations" / f"{image}.xml", folder.name, classes)
                pictures.append(picture)
                dropped += lost
        warn_of(dropped)
        data = DetectionSet(classes, pictures, ImageFiles(Path(self.root)))
        return data if self.classes is None else data.of(self.classes, empty=True)


def _picture(path: Path, year: str, classes: list[str]) -> tuple[Picture, list[str]]:
    try:
        tree = ElementTree.parse(path).getroot()
        objects = tree.findall("object")
        names = [_text(thing, "name") for thing in objects]
        boxes = [
            [float(_text(thing, f"bndbox/{corner}")) - one for corner, one in _CORNERS.items()] for thing in objects
        ]
        hard = [thing.findtext("difficult") == "1" for thing in objects]
        size = int(_text(tree, "size/height")), int(_text(tree, "size/width"))
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is not in VOC's format: {error}") from error
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise ValueError(f"{path} has an object of class {unknown[0]!r}; expected some of {', '.join(classes)}")
    return picture_of(f"{year}/JPEGImages/{path.stem}.jpg", size, boxes, [classes.index(name) for name in names], hard)


_CORNERS = {"xmin": 1, "ymin": 1, "xmax": 0, "ymax": 0}


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"{path} is missing")
    return text.strip()
