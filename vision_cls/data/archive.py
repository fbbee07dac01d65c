"""Archive: the files of a data set, in a folder or in a zip file of the same content."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .decoding import pixels

if TYPE_CHECKING:
    from PIL.Image import Image


class Archive:
    """The files under a folder or in a ``.zip``, by their paths relative to it. A folder inside a zip file that has
    the name of the file itself is looked through.

    Args:
        path: the folder, or the zip file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path) if path.is_file() else None
        self._prefix = ""
        if self._zip is not None:
            top = {name.partition("/")[0] for name in self._zip.namelist()} - {"__MACOSX"}
            self._prefix = f"{path.stem}/" if top == {path.stem} else ""

    def files(self, suffixes: tuple[str, ...]) -> list[str]:
        """Paths of all files that end in one of ``suffixes``, sorted; hidden ones are left out."""
        if self._zip is None:
            found = (path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file())
        else:
            found = (name.removeprefix(self._prefix) for name in self._zip.namelist())
        kept = (name for name in found if name.endswith(suffixes) and not name.startswith("__MACOSX"))
        return sorted(name for name in kept if not name.rpartition("/")[2].startswith("."))

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        try:
            return (self.path / name).read_bytes() if self._zip is None else self._zip.read(self._prefix + name)
        except (FileNotFoundError, KeyError):
            raise FileNotFoundError(f"{self.path} has no {name}; is it complete?") from None

    def image(self, name: str) -> Image:
        """An image file, decoded.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is no image that can be read.
        """
        from PIL import Image

        try:
            image = Image.open(io.BytesIO(self.read(name)))
            image.load()
        except (OSError, SyntaxError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{name} in {self.path} is no image that can be read: {error}") from error
        return image

    def pixels(self, names: Sequence[str], mode: str, size: int) -> Tensor:
        """uint8 (n, C, size, size) of image files, converted to a mode such as ``"RGB"``."""
        from tqdm import tqdm

        images = torch.empty(len(names), len(mode), size, size, dtype=torch.uint8)
        for i, name in enumerate(tqdm(names, f"{self.path.name}", disable=None, leave=False)):
            images[i] = pixels(self.image(name), mode, size)
        return images

    def __str__(self) -> str:
        return str(self.path)


def find(name: str, root: str | Path | None, folders: Sequence[str]) -> Archive:
    """The folder or zip file ``name`` in ``root``, by default ``$MEMREPLAY_DATA``, or in one of ``folders`` there.

    Raises:
        FileNotFoundError: there is none; the message lists where it was looked for.
    """
    base = root_of(root)
    places = [base, *(base / folder for folder in folders)]
    for place in places:
        for path in (place / name, place / f"{name}.zip"):
            if path.exists():
                return Archive(path)
    looked = ", ".join(str(place) for place in places)
    raise FileNotFoundError(f"there is no {name} and no {name}.zip in {looked}; expected one of them")


def root_of(root: str | Path | None) -> Path:
    """``root``, by default ``$MEMREPLAY_DATA`` or else ``~/.cache/memreplay``."""
    return Path(root or os.environ.get("MEMREPLAY_DATA") or Path.home() / ".cache" / "memreplay")
