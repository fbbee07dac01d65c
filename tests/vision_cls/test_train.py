"""``memreplay vision train``, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from memreplay.vision_cls.train import main, methods

QUICK = ["--first", '{"epochs": 2, "lr": 0.1}', "--later", '{"steps": 5, "batch_size": 10, "lr": 0.01}']


def results(folder: Path) -> dict[tuple[str, str], float]:
    saved = json.loads((folder / "results.json").read_text())
    return {(row["name"], row["metric"]): row["ours"] for row in saved["rows"]}


@pytest.mark.parametrize("method", methods())
def test_every_method_composed_in_yaml_runs(method: str, tmp_path: Path) -> None:
    main(["--config", method, *QUICK, "--out", str(tmp_path)])
    found = results(tmp_path)
    assert 0 <= found["after session 2", "harmonic"] <= 100
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (config["learner"]["memory"] is None) == (method == "none")
    assert config["later"]["steps"] == 5


def test_the_methods_asked_for_are_there() -> None:
    published = {"agem", "classic", "der", "derpp", "er", "er_ace", "gdumb", "gss", "icarl", "mir"}
    assert set(methods()) == published | {"none", "ours"}


def test_the_saved_config_gives_the_same_run(tmp_path: Path) -> None:
    main(["--config", "er", *QUICK, "--out", str(tmp_path / "a")])
    main(["--config", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "b")])
    assert results(tmp_path / "a") == results(tmp_path / "b")
    main(["--config", "er", *QUICK, "--seed", "1", "--out", str(tmp_path / "c")])
    assert results(tmp_path / "a") != results(tmp_path / "c")


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("MLP", ["--backbone.hidden", "[8]"]),
        ("Conv4", ["--backbone.width", "4"]),
        ("TorchvisionModel", ["--backbone.name", "shufflenet_v2_x0_5"]),
    ],
)
def test_backbones_by_name(backbone: str, options: list[str], tmp_path: Path) -> None:
    arguments = ["--backbone", f"memreplay.vision_cls.{backbone}", *options, "--sessions", "0"]
    main([*arguments, "--first", '{"steps": 2}', "--out", str(tmp_path)])
    assert ("after session 0", "overall") in results(tmp_path)


def test_an_image_folder_of_ones_own(tmp_path: Path) -> None:
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for label, colour in enumerate([(250, 20, 20), (20, 250, 20), (20, 20, 250)]):
        folder = tmp_path / "images" / f"class {label}"
        folder.mkdir(parents=True)
        for number in range(12):
            noise = torch.randint(0, 40, (8, 8, 3), generator=generator)
            pixels = (torch.tensor(colour) + noise).clamp(max=255).byte()
            Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    arguments = ["--data", "ImageFolder", "--data.root", str(tmp_path / "images"), "--data.size", "8"]
    protocol = ["--base", "2", "--way", "1", "--shot", "3", "--config", "er"]
    main([*protocol, *arguments, "--later", '{"steps": 40, "lr": 0.1}', "--out", str(tmp_path / "out")])
    assert results(tmp_path / "out")["after session 1", "harmonic"] > 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shott", "5"], "did you mean --shot"),
        (["--data", "ImageFolder", "--data.root", "/does/not/exist"], "root is '/does/not/exist'"),
        (["--base", "9"], "way is 2, which does not divide"),
        (["--config", "err"], "did you mean er"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, ValueError, FileNotFoundError)) as caught:
        main([*arguments, "--out", str(tmp_path / "out")])
    assert message in capsys.readouterr().err + str(caught.value)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    batch = '{"steps": 20, "batch_size": %d, "lr": 0.05}'
    common = ["--config", "er", "--first", '{"epochs": 1, "batch_size": %d, "lr": 0.1}']
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(launcher: list[str], batch_size: int, out: Path) -> dict[tuple[str, str], float]:
        arguments = [*common[:3], common[3] % batch_size, "--later", batch % (batch_size // 2), "--out", str(out)]
        command = [sys.executable, "-m", *launcher, "memreplay.vision_cls.train", *arguments]
        subprocess.run(command, check=True, env=environment, capture_output=True)
        return results(out)

    one = run([], 8, tmp_path / "one")
    two = run(["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"], 4, tmp_path / "two")
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=1e-9), name
