from pathlib import Path

import pytest

from memreplay import trials
from memreplay.trials import DEVICE, LOOPS, Answer, ask

FAKES = {
    "torchvision": "raise RuntimeError('operator torchvision::nms does not exist\\nmore')",
    "faiss": "import os; os.abort()",
    "tqdm": "print('hello'); import package_that_nobody_has",
    "rich": "",
}


def test_packages_that_fail_or_take_their_process_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FAKES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert ask(["torchvision", "faiss-cpu", "tqdm", "never-heard-of-it", "rich"]) == {
        "torchvision": Answer(fault="RuntimeError: operator torchvision::nms does not exist"),
        "faiss-cpu": Answer(fault="the process that tried it was killed by SIGABRT"),
        "tqdm": Answer(fault="ModuleNotFoundError: No module named 'package_that_nobody_has'"),
        "never-heard-of-it": Answer(fault="ModuleNotFoundError: No module named 'never_heard_of_it'", absent=True),
        "rich": Answer(),
    }


def test_a_package_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rich.py").write_text("import time; time.sleep(60)")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(trials, "_PATIENCE", 2.0)
    assert ask(["rich"]) == {"rich": Answer(fault="the process that tried it gave no answer within 2 seconds")}


@pytest.mark.parametrize("name", ["torch", LOOPS, "PyYAML", "numpy"])
def test_what_these_tests_run_with_works(name: str) -> None:
    answer = trials._tried(name)
    assert not answer.fault or (answer.absent and name == LOOPS)


def test_the_device_is_named() -> None:
    assert "torch" in trials._tried(DEVICE).detail


def test_a_wrong_result_is_a_fault() -> None:
    with pytest.raises(RuntimeError, match=r"a product gave 3; expected 2"):
        trials._expect("a product", 3, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(trials._TRIALS))
def test_every_trial_passes_where_its_package_is_installed(name: str) -> None:
    answer = ask([name])[name]
    assert not answer.fault or answer.absent
