"""The README's section on images runs as it stands, but for the network and the number of steps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

QUICK = " --backbone memreplay.vision_cls.Conv4 --data.size 32 --first.epochs 2 --later.steps 2"


def images(folder: Path, classes: dict[str, tuple[int, int, int]], n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, colour in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(n):
            noise = torch.randint(0, 40, (32, 32, 3), generator=generator)
            pixels = (torch.tensor(colour) + noise).clamp(max=255).byte()
            Image.fromarray(pixels.numpy()).save(folder / name / f"{i}.png")


def test_the_section_on_images_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    section_of_readme: Callable[[str], list[str]],
    run_command: Callable[[str], str],
) -> None:
    monkeypatch.chdir(tmp_path)
    colours = [(200, 20 * i, 0) for i in range(5)] + [(0, 20 * i, 200) for i in range(5)]
    names = ["heron", *(f"class{i}" for i in range(9))]
    images(tmp_path / "my-images", dict(zip(names, colours, strict=True)), 8)
    images(tmp_path / "new-classes", {"new": (20, 215, 20)}, 3)
    (tmp_path / "new-classes" / "new" / "0.png").rename(tmp_path / "photo.jpg")
    first, python, second = section_of_readme("On your own images")
    train, predict, add, evaluate, forget = first.splitlines()
    assert "10 classes learned" in run_command(train + QUICK)
    answer = json.loads(run_command(predict))
    assert answer["label"] in names
    assert len(answer["memories"]) == 3
    assert "new" in run_command(add)
    assert json.loads(run_command(predict))["label"] == "new"
    assert "accuracy" in run_command(evaluate.replace("test-images", "my-images"))
    assert "heron" in run_command(forget)
    exec(compile(python, "README.md", "exec"), {})
    assert "after session 2" in run_command(second + QUICK)
