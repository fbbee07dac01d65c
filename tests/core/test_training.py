from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from memreplay.core.checkpoint import latest
from memreplay.core.loading import batches
from memreplay.core.memory import ReplayMemory
from memreplay.core.mixers import (
    EMA,
    CrossEntropy,
    FeatureNoise,
    LinearSchedule,
    LogitDistillation,
    ReplayCrossEntropy,
    View,
)
from memreplay.core.random_state import random_state, set_random_state
from memreplay.core.retrievers.nearest import Nearest
from memreplay.core.selection import Uniform
from memreplay.core.stores import Store
from memreplay.core.training import Interrupt, fit


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """accelerate keeps its settings in the process; every test starts without."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def table(n: int = 50) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "input": torch.randn(n, 6, generator=generator),
        "label": torch.randint(3, (n,), generator=generator),
    }


def net() -> nn.Module:
    set_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 3))


def shuffled(n: int = 50, size: int = 12) -> DataLoader:
    """The usual way: the order comes from the global generator."""

    def collate(rows):
        return {"input": torch.stack([row[0] for row in rows]), "label": torch.stack([row[1] for row in rows])}

    return DataLoader(TensorDataset(*table(n).values()), size, shuffle=True, collate_fn=collate)


def same(a: object, b: object) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def lines_of(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds") >= 0
    return lines


# -- against loops written by hand ----------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [None, "replay=0"])
@pytest.mark.parametrize("loader", [shuffled, lambda: batches(table(), 12)])
def test_without_recall_it_is_the_loop_anyone_would_write(memory, loader):
    plain = net()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    data = loader()
    for epoch in range(3):
        if hasattr(data.sampler, "set_epoch"):
            data.sampler.set_epoch(epoch)
        for batch in data:
            nn.functional.cross_entropy(plain(batch["input"]), batch["label"]).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    after = random_state()

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    replay = None if memory is None else ReplayMemory(Store(20), replay=0)
    progress = fit(model, optimizer, loader(), replay, epochs=3, scheduler=scheduler)
    assert (progress.step, progress.epoch) == (15, 3)
    assert same(dict(model.state_dict()), dict(plain.state_dict()))
    assert same(random_state(), after)
    if replay is not None:
        assert replay.source.seen == 150


def test_replay_is_the_loop_of_the_design():
    model, plain = net(), net()
    torch.manual_seed(1)
    state = random_state()
    memory = ReplayMemory(Store(20), mix=CrossEntropy() + 0.5 * ReplayCrossEntropy(), replay=5)
    fit(model, torch.optim.Adam(model.parameters()), batches(table(), 12), memory, steps=7)

    set_random_state(state)
    store, optimizer = Store(20), torch.optim.Adam(plain.parameters())
    loader, step = batches(table(), 12), 0
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            if step == 7:
                break
            if len(store):
                rows = store.draw(5)
                logits = plain(torch.cat([batch["input"], rows["input"]]))
                new, old = logits.split([len(batch["label"]), len(rows)])
                loss = nn.functional.cross_entropy(new, batch["label"])
                loss = loss + 0.5 * nn.functional.cross_entropy(old, rows["label"])
            else:
                loss = nn.functional.cross_entropy(plain(batch["input"]), batch["label"])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            store.add(batch)
            step += 1
    assert same(dict(model.state_dict()), dict(plain.state_dict()))
    assert same(memory.source.state_dict(), store.state_dict())


def test_accumulated_gradients_are_those_of_the_larger_batch():
    from accelerate import Accelerator

    def linear() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(6, 3).double()

    data = {**table(48), "input": table(48)["input"].double()}
    small, large = linear(), linear()
    steps = []
    fit(
        small,
        torch.optim.SGD(small.parameters(), lr=0.1),
        batches(data, 6, shuffle=False),
        epochs=2,
        clip_norm=0.5,
        accelerator=Accelerator(cpu=True, gradient_accumulation_steps=2),
        on_step_end=lambda progress: steps.append((progress.step, progress.batch)),
    )
    optimizer = torch.optim.SGD(large.parameters(), lr=0.1)
    for _ in range(2):
        for batch in batches(data, 12, shuffle=False):
            nn.functional.cross_entropy(large(batch["input"]), batch["label"]).backward()
            nn.utils.clip_grad_norm_(large.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(small.weight, large.weight, rtol=1e-12, atol=0)
    assert steps == [(1, 2), (2, 4), (3, 6), (4, 8), (5, 2), (6, 4), (7, 6), (8, 8)]


# -- stopping and going on --------------------------------------------------------------------------------------------


class Run:
    """A run with everything that has a state: momentum, dropout, batch statistics, a schedule, logits in the memory."""

    def __init__(self, out: Path, loader: str = "shuffled") -> None:
        self.out = out
        self.loader = {"shuffled": shuffled, "batches": lambda: batches(table(), 12)}[loader]
        self.model = net()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 12)
        self.average = EMA(self.model, 0.9)
        self.memory = ReplayMemory(
            Store(20),
            draw={"labels": Uniform(), "logits": Nearest("input")},
            mix=CrossEntropy()
            + LinearSchedule(0, 1, 5) * ReplayCrossEntropy("labels")
            + LogitDistillation("logits", name="distillation"),
            replay={"labels": 5, "logits": 4},
            transform=FeatureNoise(0.1, "input"),
        )

    def to(self, step: int, **settings) -> Run:
        def step_end(progress):
            self.average.update(self.model)
            self.model.eval()  # fit puts it back
            return {"noise": torch.rand(1).item()} if progress.step == 3 else None

        fit(
            self.model,
            self.optimizer,
            self.loader(),
            self.memory,
            steps=step,
            query=lambda batch: {"input": batch["input"]},
            remember=("input", "label", "logits"),
            scheduler=self.scheduler,
            out=self.out,
            log_every=2,
            on_step_end=step_end,
            on_epoch_end=lambda progress: {"accuracy": progress.epoch + torch.rand(1).item()},
            stateful={"average": self.average},
            progress_bar=False,
            **settings,
        )
        return self

    def state(self) -> dict:
        parts = (self.model, self.optimizer, self.scheduler, self.average, self.memory)
        return {"random": random_state(), **{type(part).__name__: part.state_dict() for part in parts}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs of 12 steps, 5 to the epoch, that nobody stopped: state and reports, by loader."""
    runs = {}
    for loader in ("shuffled", "batches"):
        run = Run(tmp_path_factory.mktemp(loader), loader).to(12)
        runs[loader] = run.state(), lines_of(run.out)
    return runs


@pytest.mark.parametrize("loader", ["shuffled", "batches"])
@pytest.mark.parametrize("stop", range(13))
def test_a_run_stopped_after_any_step_goes_on_bit_for_bit(stop, loader, whole, tmp_path):
    state, lines = whole[loader]
    Run(tmp_path, loader).to(stop)
    resumed = Run(tmp_path, loader)
    set_seed(99)
    resumed.to(12, resume=True)
    assert same(resumed.state(), state)
    # a stopped run also reports its last step
    assert [line for line in lines_of(tmp_path) if line["step"] != stop] == [
        line for line in lines if line["step"] != stop
    ]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-12-epoch-2"


def test_a_finished_run_is_left_as_it_is(tmp_path):
    first = Run(tmp_path).to(4)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    state, lines = first.state(), lines_of(tmp_path)
    again = Run(tmp_path)
    set_seed(99)
    assert same(again.to(4, resume=True).state(), state)
    assert lines_of(tmp_path) == lines
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")} == files


def test_a_run_killed_while_saving_goes_on_from_the_checkpoint_before(whole, tmp_path, monkeypatch):
    state, lines = whole["shuffled"]
    replace, calls = os.replace, []

    def fail_the_third(source, target):
        if Path(target).name == "latest":
            calls.append(source)
            if len(calls) == 3:
                raise OSError("no space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", fail_the_third)
    with pytest.raises(OSError, match="no space left"):
        Run(tmp_path).to(12, save_every=3)
    assert latest(tmp_path / "checkpoints").name == "step-6-epoch-1"
    assert (tmp_path / "checkpoints" / "step-9-epoch-1").is_dir()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "ep')  # cut off
    resumed = Run(tmp_path).to(12, save_every=3, resume=True)
    assert same(resumed.state(), state)
    assert lines_of(tmp_path) == lines
    # the last two stay
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir())
    assert kept == ["step-12-epoch-2", "step-9-epoch-1"]


def test_ctrl_c_saves_and_another_process_goes_on_bit_for_bit(whole, tmp_path):
    state, lines = whole["shuffled"]
    script = f"""
import importlib.util, os, signal, torch
from pathlib import Path
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("test_training", {str(Path(__file__))!r})
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
run = tests.Run(Path({str(tmp_path)!r}))
update = run.average.update
def interrupted(model):
    update(model)
    if run.memory.step == 7:
        os.kill(os.getpid(), signal.SIGINT)
run.average.update = interrupted
run.to(12)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (-signal.SIGINT, 1), done.stderr
    assert f"stopped at step 7; go on with resume=True and out={str(tmp_path)!r}" in done.stderr
    assert "KeyboardInterrupt" in done.stderr
    resumed = Run(tmp_path).to(12, resume=True)
    assert same(resumed.state(), state)
    assert lines_of(tmp_path) == lines


@pytest.mark.parametrize("hook", ["on_step_end", "on_epoch_end"])
def test_ctrl_c_at_the_very_end_is_not_lost(hook, tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def interrupted(progress):
        if progress.step == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(model, optimizer, shuffled(), out=tmp_path, **{hook: interrupted})
    assert latest(tmp_path / "checkpoints").name == "step-5-epoch-1"


def test_a_second_signal_stops_at_once():
    from accelerate import Accelerator

    before = signal.getsignal(signal.SIGINT)
    with Interrupt(Accelerator(cpu=True), active=True) as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.wanted(ask=False)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt), Interrupt(Accelerator(cpu=True), active=False):
        signal.raise_signal(signal.SIGINT)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    Run(tmp_path).to(2)
    with pytest.raises(ValueError, match="holds a run; expected another folder, or resume=True"):
        Run(tmp_path).to(3)
    other = Run(tmp_path)
    other.model = nn.Linear(6, 3)
    with pytest.raises(ValueError, match="holds another model"):
        other.to(3, resume=True)
    other = Run(tmp_path)
    other.memory = ReplayMemory(Store(21), mix=other.memory.mix, replay={"labels": 5, "logits": 4})
    with pytest.raises(ValueError, match="capacity 20; this store has 21"):
        other.to(3, resume=True)
    model = net()
    with pytest.raises(
        ValueError, match=r"state of \['average', 'optimizer', 'scheduler'\]; this run has \['optimizer'\]"
    ):
        fit(model, torch.optim.SGD(model.parameters(), 0.1), shuffled(), out=tmp_path, resume=True)
    (tmp_path / "checkpoints" / "latest").write_text("../../elsewhere")
    with pytest.raises(ValueError, match="which is no checkpoint"):
        Run(tmp_path).to(3, resume=True)


def test_a_checkpoint_runs_no_code(tmp_path):
    Run(tmp_path).to(1)

    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "pwned"),))

    torch.save(Hostile(), latest(tmp_path / "checkpoints") / "state.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        Run(tmp_path).to(3, resume=True)
    assert not (tmp_path / "pwned").exists()


# -- everything else ------------------------------------------------------------------------------------------------


def test_reports(tmp_path):
    class Tracked(list):
        def log(self, values, step, **_):
            self.append((step, values))

    from accelerate import Accelerator

    accelerator, tracked = Accelerator(cpu=True), Tracked()
    tracked.name = "tracked"
    accelerator.trackers.append(tracked)
    model = net()
    fit(
        model,
        torch.optim.SGD(model.parameters(), 0.5),
        shuffled(),
        epochs=2,
        out=tmp_path,
        log_every=4,
        accelerator=accelerator,
        on_epoch_end=lambda progress: {"accuracy": 0.5},
    )
    lines = lines_of(tmp_path)
    assert [(line["step"], line["epoch"]) for line in lines] == [(4, 0), (5, 1), (8, 1), (10, 2)]
    assert lines[0].keys() == {"step", "epoch", "loss", "cross_entropy", "lr"}
    assert lines[1] == {"step": 5, "epoch": 1, "accuracy": 0.5}
    assert [step for step, _ in tracked] == [4, 5, 8, 10]
    assert tracked[0][1]["loss"] == lines[0]["loss"]


def test_sessions_leave_nothing_behind():
    from accelerate import Accelerator

    accelerator, model = Accelerator(cpu=True, mixed_precision="bf16"), net()
    memory = ReplayMemory(Store(20), mix=CrossEntropy() + LogitDistillation(), replay=4)
    forward = type(model).forward
    for session in range(3):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        loader = batches(table(), 12, seed=session)
        fit(model, optimizer, loader, memory, accelerator=accelerator, remember=("input", "label", "logits"))
        assert model.forward.__func__ is forward
        assert not model.__dict__.get("_is_accelerate_prepared", False)
        assert not accelerator._models
        assert not accelerator._optimizers
        assert not accelerator._dataloaders
        assert not accelerator.gradient_state.in_dataloader
    assert len(accelerator._save_model_state_pre_hook) == 1  # of the memory
    fit(model, optimizer, loader, accelerator=accelerator)
    assert len(accelerator._save_model_state_pre_hook) == 1
    assert memory.source.seen == 150
    assert memory.source.draw(1)["logits"].dtype == torch.float32


def test_what_is_remembered_can_be_chosen():
    def kept(remember):
        memory, model = ReplayMemory(Store(100), replay=0), net()
        fit(model, torch.optim.SGD(model.parameters(), 0.1), shuffled(), memory, remember=remember)
        return memory.source

    assert set(kept(None).draw(1).keys()) == {"input", "label"}
    assert set(kept(("label", "logits")).draw(1).keys()) == {"label", "logits"}
    assert len(kept(())) == 0

    rows = kept(("logits", "label", "loss", "margin")).rows()
    each = nn.functional.cross_entropy(rows["logits"], rows["label"], reduction="none")
    torch.testing.assert_close(rows["loss"], each)
    assert (rows["margin"] < 0).sum() > 0
    with pytest.raises(KeyError, match="column 'colour' is missing"):
        kept(("colour",))

    def first_class(view: View):
        index = view.rows["label"] == 0
        return {"input": view.rows["input"][index]} if index.any() else None

    assert len(kept(first_class)) == int((table()["label"] == 0).sum())


def test_any_iterable_of_batches_will_do(tmp_path):
    data = table()
    loader = [{name: values[i : i + 10] for name, values in data.items()} for i in range(0, 50, 10)]
    model, ends = net(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    fit(model, optimizer, loader, epochs=2, on_epoch_end=lambda p: ends.append(p.step), out=tmp_path)
    progress = fit(
        model, optimizer, loader, epochs=3, on_epoch_end=lambda p: ends.append(p.step), out=tmp_path, resume=True
    )
    assert ends == [5, 10, 15]
    assert progress.step == 15


def test_bad_input():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="epochs is 1 and steps is 2"):
        fit(model, optimizer, shuffled(), epochs=1, steps=2)
    with pytest.raises(ValueError, match="log_every is 0"):
        fit(model, optimizer, shuffled(), log_every=0)
    with pytest.raises(ValueError, match="loader gave no batch in epoch 0"):
        fit(model, optimizer, [], steps=3)
    with pytest.raises(TypeError, match="loader gave a tuple; expected a dict of tensors"):
        fit(model, optimizer, [(torch.zeros(1), torch.zeros(1))])
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="loss is nan at step 1"):
        fit(model, optimizer, shuffled(), log_every=1)


def test_views_take_the_place_of_the_joint_forward() -> None:
    """A model whose outputs are its losses, as those of detectors are."""

    def views(model, batch, recalled):
        loss = nn.functional.cross_entropy(model(batch["input"]), batch["label"])
        seen.append(None if recalled is None else len(recalled["replay"]))
        return View(batch, {"loss": loss.expand(len(batch["label"]))}), {}

    class Reported(CrossEntropy):
        def loss(self, view):
            return view.output("loss").mean()

    seen: list[int | None] = []
    model = net()
    memory = ReplayMemory(Store(20), mix=Reported(), replay=4)
    fit(model, torch.optim.SGD(model.parameters(), 0.1), shuffled(), memory, views=views, progress_bar=False)
    assert seen == [None, 4, 4, 4, 4]
    assert len(memory.source) == 20
    with pytest.raises(ValueError, match="forward and views are both given"):
        fit(model, torch.optim.SGD(model.parameters(), 0.1), shuffled(), views=views, forward=lambda m, b: {})
