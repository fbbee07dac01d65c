"""What is installed, what can be imported from it and at what cost, and that the examples in docstrings run."""

import doctest
import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import memreplay

ROOT = Path(__file__).resolve().parents[1]
NOT_INSTALLED = {"tests", "benchmarks", "docs", "examples", "build", "dist", "runs", "demo-out"}

PUBLIC = [
    *("Store", "GaussianStore", "Batch", "Rows"),
    *("Plain", "Half", "BFloat16", "Quantized", "Growable", "Ragged"),
    *("Reservoir", "DiverseReservoir", "Fifo", "WeightedReservoir", "Herding", "KCenter", "GradientDiversity"),
    *("TopScore", "ClassBalanced", "Uniform", "Nearest", "Prioritized", "Rescored", "Mixture"),
    *("CrossEntropy", "ReplayCrossEntropy", "JointCrossEntropy", "MaskedCrossEntropy"),
    *("LogitDistillation", "KnowledgeDistillation", "FeatureDistillation", "PrototypeLoss", "UncertaintyWeighting"),
    *("AGem", "EMA", "ReplayMemory", "joint_forward", "View"),
]


def sources() -> dict[str, Path]:
    """What belongs in a wheel, by its path there: the modules, the YAML recipes, the page of the report, the marker of
    typed packages."""
    found = [path for path in ROOT.glob("*.py") if path.name != "setup.py"] + [ROOT / "py.typed"]
    for folder in ROOT.iterdir():
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in NOT_INSTALLED:
            found += [
                *folder.rglob("*.py"),
                *folder.rglob("recipes/*.yaml"),
                *folder.glob("intents.csv"),
                *folder.rglob("page.*"),
            ]
    return {f"memreplay/{path.relative_to(ROOT).as_posix()}": path for path in found}


def modules() -> list[str]:
    names = [name.removesuffix(".py").removesuffix("/__init__") for name in sources() if name.endswith(".py")]
    return sorted(name.replace("/", ".") for name in names)


def test_wheel_has_every_module_and_nothing_else(tmp_path: Path) -> None:
    # built from a copy: setuptools would also pack what an earlier build left in build/
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", *NOT_INSTALLED - {"tests"})
    shutil.copytree(ROOT, copy, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(tmp_path), str(copy)], check=True)
    (wheel,) = tmp_path.glob("memreplay-*.whl")
    installed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    compiled = {name for name in installed if re.search(r"/_\w+\.[^/]*(so|pyd)$", name)}
    built = sorted(name.partition(".")[0] for name in compiled)
    assert built == ["memreplay/core/_loops", "memreplay/core/retrievers/_scan"] or not shutil.which("cc")
    installed -= compiled
    assert sorted(set(sources()) - installed) == [], "not in the wheel; is the folder among pyproject.toml's packages?"
    assert sorted(installed - set(sources())) == [], "in the wheel without belonging there"
    assert wheel.name.split("-")[1] == memreplay.__version__


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name(name: str) -> None:
    assert hasattr(memreplay, name)
    assert name in memreplay.__all__


def test_every_exported_name_exists_once() -> None:
    assert [name for name in memreplay.__all__ if not hasattr(memreplay, name)] == []
    assert len(set(memreplay.__all__)) == len(memreplay.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'memreplay' has no attribute 'Stroe'"):
        memreplay.Stroe  # noqa: B018


def test_import_is_light() -> None:
    heavy = ["torchvision", "sklearn", "matplotlib", "accelerate", "transformers", "jsonargparse", "PIL"]
    code = f"""
import sys, time, torch
loaded = set(sys.modules)
start = time.perf_counter()
import memreplay
print(time.perf_counter() - start)
memreplay.ReplayMemory, memreplay.fit
print(*(name for name in {heavy} if name in set(sys.modules) - loaded))
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, brought_along = run.stdout.splitlines()
    assert float(seconds) <= 0.2
    assert brought_along == ""


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name: str) -> None:
    if ".detectron2" in name:
        pytest.importorskip("detectron2", reason="detectron2 is not installed; it is on no package index")
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    names = {public: getattr(memreplay, public) for public in memreplay.__all__}
    assert doctest.testmod(importlib.import_module(name), extraglobs=names, optionflags=options).failed == 0


@pytest.mark.parametrize("name", modules())
def test_imports_follow_the_house(name: str) -> None:
    module = f"{name.replace('.', '/')}"
    path = sources().get(f"{module}.py") or sources()[f"{module}/__init__.py"]
    text = path.read_text("utf-8")
    assert not re.search(r"^\s*(from|import) memreplay\b", text, re.MULTILINE), (
        "imports inside the package are relative"
    )
    if name.startswith("memreplay.core"):
        upward = re.search(
            r"^\s*from \.+(vision_cls|detection|nlp|integrations|cli|arguments|teaching)\b", text, re.MULTILINE
        )
        assert not upward, "core knows no domain"
