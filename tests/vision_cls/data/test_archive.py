import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from memreplay.vision_cls.data.archive import Archive, find


@pytest.fixture(params=["folder", "zip", "zip with a folder of its name"])
def archive(request: pytest.FixtureRequest, tmp_path: Path, picture: Callable[..., None]) -> Archive:
    """Two images, one of them no image, and a hidden file."""
    root = tmp_path / "birds"
    picture(root / "b" / "2.png", (0, 0, 250))
    (root / "a").mkdir()
    (root / "a" / "1.png").write_bytes(b"no image")
    (root / "a" / "._1.png").write_bytes(b"left by a file manager")
    if request.param == "folder":
        return Archive(root)
    inside = "birds" if "with" in request.param else "."
    return Archive(Path(shutil.make_archive(str(root), "zip", tmp_path if inside == "birds" else root, inside)))


def test_the_same_files_wherever_they_lie(archive: Archive) -> None:
    assert archive.files((".png",)) == ["a/1.png", "b/2.png"]
    assert archive.files((".jpg",)) == []
    assert archive.read("a/1.png") == b"no image"
    assert archive.pixels(["b/2.png"], "RGB", 4)[0, :, 0, 0].tolist() == [0, 0, 250]


def test_what_is_missing_or_broken_is_named(archive: Archive) -> None:
    with pytest.raises(FileNotFoundError, match=r"birds.* has no c\.png"):
        archive.read("c.png")
    with pytest.raises(ValueError, match=r"a/1\.png in .*birds.* is no image"):
        archive.image("a/1.png")


def test_find(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMREPLAY_DATA", str(tmp_path))
    assert find("birds", None, ()).files((".png",)) == archive.files((".png",))
    assert find("birds", tmp_path.parent, (tmp_path.name,)).files((".png",)) == archive.files((".png",))
    with pytest.raises(FileNotFoundError, match=r"no fish and no fish\.zip in .*, .*ponds"):
        find("fish", None, ("ponds",))
