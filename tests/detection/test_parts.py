from dataclasses import dataclass
from pathlib import Path

import pytest

from memreplay.detection.data import DetectionData, DetectionSet
from memreplay.detection.folder import Folder
from memreplay.detection.parts import Parts


@dataclass(frozen=True)
class Made(DetectionData):
    made: DetectionSet

    def load(self) -> DetectionSet:
        return self.made


@pytest.mark.parametrize(("images", "validation"), [(None, 2), (4, 1)])
def test_validation_is_kept_apart_and_is_a_quarter_at_most(
    images: int | None, validation: int, scenes: DetectionSet
) -> None:
    parts = Parts.load(Made(scenes), Made(scenes.first(3)), 2, images).of(["2", "0"])
    assert len(parts.validation) == validation
    assert len(parts.learned) == (images or 8)
    assert len(parts.test) == 3
    train, apart, learned = (
        {picture.name for picture in part.pictures} for part in (parts.train, parts.validation, parts.learned)
    )
    assert not train & apart
    assert train | apart == learned
    assert parts.train.classes == parts.test.classes == ("2", "0")


def test_what_is_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "lists.zip").touch()
    folder = Folder.holding("lists.zip", tmp_path, "lists")
    assert folder.first("lists", "lists.zip") == tmp_path / "lists.zip"
    assert folder.first("weights.pth") is None
    for data in (None, tmp_path):
        with pytest.raises(ValueError, match=rf"^data is {str(data)!r}; expected a folder with images and more$"):
            Folder.holding("images", data, "images and more")
