"""``memreplay vision train``, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from memreplay.vision_cls import ImageAdapter, ImageSet, digits
from memreplay.vision_cls.train import main, methods

SESSIONS = ["--base", "6", "--way", "2"]
QUICK = [*SESSIONS, "--first", '{"epochs": 2, "lr": 0.1}', "--later", '{"steps": 5, "batch_size": 10, "lr": 0.01}']


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
    arguments = ["--backbone", f"memreplay.vision_cls.{backbone}", *options, *SESSIONS, "--sessions", "0"]
    main([*arguments, "--first", '{"steps": 2}', "--out", str(tmp_path)])
    assert ("test", "accuracy") in results(tmp_path)


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
        (["--base", "9", "--way", "2"], "way is 2, which does not divide"),
        (["--way", "2"], "base is None and way is 2; expected both"),
        (["--config", "err"], "did you mean er"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, ValueError, FileNotFoundError)) as caught:
        main([*arguments, "--out", str(tmp_path / "out")])
    assert message in capsys.readouterr().err + str(caught.value)


# -- the adapter that is left


@pytest.mark.parametrize("method", ["none", "er", "icarl", "ours"])
def test_the_adapter_knows_what_the_last_session_left(method: str, tmp_path: Path) -> None:
    main(["--config", method, *QUICK, "--out", str(tmp_path)])
    adapter = ImageAdapter.load(tmp_path, device="cpu")
    test = digits("test")
    place = adapter.probabilities(adapter.encoder.embed(test.images)).argmax(1).tolist()
    right = sum(adapter.classes[i] == name for i, name in zip(place, test.names, strict=True))
    tolerance = 8 if method == "icarl" else 1e-6  # whose adapter has other exemplars
    assert 100 * right / len(test) == pytest.approx(results(tmp_path)["after session 2", "overall"], abs=tolerance)
    assert [adapter.names[number] for number in adapter.base] == [str(digit) for digit in range(10)]


def test_all_classes_at_once_is_the_default(tmp_path: Path) -> None:
    main(["--first", '{"epochs": 3, "lr": 0.1}', "--out", str(tmp_path)])
    assert list(results(tmp_path)) == [("test", "accuracy")]
    assert results(tmp_path)["test", "accuracy"] > 80
    assert ImageAdapter.load(tmp_path).classes == [str(digit) for digit in range(10)]


def weights(tmp_path: Path) -> list[str]:
    """A backbone with weights that it was given."""
    from torchvision.models import shufflenet_v2_x0_5

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(shufflenet_v2_x0_5().state_dict(), tmp_path / "weights.pth")
    options = ["--backbone.name", "shufflenet_v2_x0_5", "--backbone.weights", str(tmp_path / "weights.pth")]
    return ["--backbone", "TorchvisionModel", *options, "--recipe.head.C", "1000"]


@pytest.mark.parametrize("protocol", [[], SESSIONS])
def test_a_network_with_weights_stays_as_it_is(protocol: list[str], tmp_path: Path) -> None:
    backbone = weights(tmp_path)
    main([*backbone, *protocol, "--out", str(tmp_path / "out")])
    adapter = ImageAdapter.load(tmp_path / "out", device="cpu")
    given = torch.load(tmp_path / "weights.pth", weights_only=True)
    assert torch.equal(adapter.encoder.tuned_weights()["1.conv1.0.weight"], given["conv1.0.weight"])
    test = digits("test")
    place = adapter.probabilities(adapter.encoder.embed(test.images)).argmax(1).tolist()
    right = sum(adapter.classes[i] == name for i, name in zip(place, test.names, strict=True))
    last = ("after session 2", "overall") if protocol else ("test", "accuracy")
    assert results(tmp_path / "out")[last] == pytest.approx(100 * right / len(test))
    assert results(tmp_path / "out")[last] > 20


def test_a_network_with_weights_can_be_fine_tuned(tmp_path: Path) -> None:
    quick = ["--config", "none", "--first", '{"steps": 2, "lr": 0.1}']
    main([*quick, *weights(tmp_path), "--out", str(tmp_path / "out")])
    tuned = ImageAdapter.load(tmp_path / "out", device="cpu").encoder.tuned_weights()
    given = torch.load(tmp_path / "weights.pth", weights_only=True)
    assert not torch.equal(tuned["1.conv1.0.weight"], given["conv1.0.weight"])


# -- training


EVERYTHING = [
    "--augment", "memreplay.vision_cls.Augment", "--augment.flip", "0", "--gradient_accumulation", "2",
    "--clip_norm", "1.0", "--workers", "1",
    "--learner.optimizer", "torch.optim.AdamW", "--learner.optimizer.weight_decay", "0.01",
    "--first", '{"epochs": 2, "lr": 0.01, "rate": {"class_path": "memreplay.WarmCosine", "init_args": {"warm": 0.2}}}',
    "--later", '{"steps": 4, "lr": 0.01}',
]  # fmt: skip


def test_everything_at_once(tmp_path: Path) -> None:
    main(["--config", "er", *SESSIONS, *EVERYTHING, "--log_every", "5", "--out", str(tmp_path)])
    lines = [json.loads(line) for line in (tmp_path / "session-0" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) > 3
    assert lines[-1]["lr"] < min(line["lr"] for line in lines[:-1])  # the rate comes down
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["learner"]["optimizer"]["init_args"]["weight_decay"] == 0.01
    assert results(tmp_path)["after session 0", "base"] > 25


def test_images_on_disk_are_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    for label in range(2):
        (tmp_path / "images" / f"class {label}").mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8), 200 * label + number).save(tmp_path / "images" / f"class {label}" / f"{number}.png")
    rows = ImageSet.rows

    def few(self: ImageSet, index: torch.Tensor) -> ImageSet:
        assert len(index) < 16, "the training images were copied"
        return rows(self, index)

    monkeypatch.setattr(ImageSet, "rows", few)
    data = ["--data", "ImageFolder", "--data.root", str(tmp_path / "images"), "--data.size", "8"]
    learn = ["--backbone", "Conv4", "--backbone.width", "4", "--first", '{"steps": 3}']
    main([*data, "--data.cache", str(tmp_path / "cache"), *learn, "--out", str(tmp_path / "out")])
    assert (tmp_path / "cache" / "train.pixels").stat().st_size == 16 * 3 * 8 * 8
    assert ("test", "accuracy") in results(tmp_path / "out")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "memreplay", "vision", "train", *words]


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    adapter = ImageAdapter.load(folder, device="cpu")
    assert adapter.solved is not None
    return {**adapter.encoder.tuned_weights(), **adapter.solved.tensors()}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(number: signal.Signals, tmp_path: Path) -> None:
    words = ["--config", "er", *SESSIONS, *EVERYTHING, "--mixed_precision", "bf16"]
    words += ["--first.epochs", "4", "--workers", "0", "--save_every", "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command(*words, "--out", str(tmp_path / "whole")), check=True, env=environment, capture_output=True)
    stopped = tmp_path / "stopped"
    run = subprocess.Popen(
        command(*words, "--out", str(stopped)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not (stopped / "session-0" / "checkpoints" / "latest").exists():
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert run.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert not (stopped / "manifest.json").exists()
    if number == signal.SIGINT:
        assert f"to go on: memreplay vision train --config {stopped / 'config.yaml'} --resume true" in err.decode()
        assert "Traceback" not in err.decode()
    again = command("--config", str(stopped / "config.yaml"), "--resume", "true")
    subprocess.run(again, check=True, env=environment, capture_output=True)
    assert results(stopped) == results(tmp_path / "whole")
    whole, resumed = weights_in(tmp_path / "whole"), weights_in(stopped)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    rate = '"rate": {"class_path": "memreplay.WarmCosine"}'

    def run(launcher: list[str], share: int, out: Path) -> dict[tuple[str, str], float]:
        stages = [
            "--first", f'{{"epochs": 1, "batch_size": {8 // share}, "lr": 0.1, {rate}}}',
            "--later", f'{{"steps": 20, "batch_size": {4 // share}, "lr": 0.05}}',
        ]  # fmt: skip
        changed = ["--augment", "memreplay.vision_cls.Augment", "--augment.flip", "0", "--clip_norm", "5"]
        words = ["--config", "er", *SESSIONS, *stages, *changed, "--out", str(out)]
        started = [sys.executable, "-m", *launcher, "memreplay.vision_cls.train", *words]
        done = subprocess.run(started, check=True, env=environment, capture_output=True, text=True)
        assert done.stdout.count("the adapter is in") == 1
        return results(out)

    one = run([], 1, tmp_path / "one")
    # the command refuses to go on with another number of processes than were started
    two = run(["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"], 2, tmp_path / "two")
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=1e-9), name
    for name, values in weights_in(tmp_path / "one").items():
        torch.testing.assert_close(weights_in(tmp_path / "two")[name], values, rtol=1e-3, atol=1e-5)
