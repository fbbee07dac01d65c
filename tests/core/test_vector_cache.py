from pathlib import Path

import pytest
import torch
from torch import Tensor

from memreplay.core.vector_cache import VectorCache, cache_folder


class Squares:
    """Makes the vectors, and remembers what it was asked for."""

    def __init__(self, things: list[bytes]) -> None:
        self.things, self.asked = things, []

    def __call__(self, rows: list[int]) -> Tensor:
        self.asked.append(rows)
        return torch.tensor([[float(self.things[row]) ** 2, 1.0] for row in rows])


def test_each_is_computed_once_and_written_in_parts(tmp_path: Path) -> None:
    things = [b"3", b"1", b"3", b"2", b"5"]
    make = Squares(things)
    found = VectorCache(tmp_path, "squares")(things, make, at_once=2)
    assert found[:, 0].tolist() == [9, 1, 9, 4, 25]
    assert make.asked == [[0, 1], [3, 4]]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    again = VectorCache(tmp_path, "squares")(things[::-1], lambda rows: pytest.fail("known"))
    assert torch.equal(again, found.flip(0))


def test_what_was_written_before_a_failure_is_kept(tmp_path: Path) -> None:
    things = [b"1", b"2", b"3", b"4"]

    def failing(rows: list[int]) -> Tensor:
        if rows[0] == 2:
            raise KeyboardInterrupt
        return torch.ones(len(rows), 2)

    with pytest.raises(KeyboardInterrupt):
        VectorCache(tmp_path, "k")(things, failing, at_once=2)
    make = Squares(things)
    VectorCache(tmp_path, "k")(things, make)
    assert make.asked == [[2, 3]]


def test_another_key_is_another_cache(tmp_path: Path) -> None:
    VectorCache(tmp_path, "a")([b"1"], Squares([b"1"]))
    make = Squares([b"1"])
    VectorCache(tmp_path, "b")([b"1"], make)
    assert make.asked == [[0]]


def test_the_place_of_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("features") == tmp_path / "memreplay" / "features"
