"""Bench: ours against peers, interleaved in one process, as CPU time of one thread."""

from __future__ import annotations

import argparse
import gc
import importlib
import inspect
import json
import math
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from memreplay.core.loops import loops
from memreplay.core.retrievers import scan

Work = Callable[[], object]

ROUND = 0.05
"""Seconds that ours takes in a round, at least: one interruption of a few milliseconds must not make the round."""


class Peer(NamedTuple):
    """Whom we compare with.

    Attributes:
        work: what is timed; None: it is not installed, which is noted.
        must: the ratio asked for, their time over ours.
        per: operations in the work, if not as many as in ours.
    """

    work: Work | None
    must: float | None = None
    per: int | None = None


@dataclass(frozen=True)
class Row:
    """One comparison. Times are seconds per call, medians over the rounds.

    Attributes:
        operation: what was timed.
        ours: our time.
        peer: whom we compare with, or None.
        theirs: its time.
        ratio: theirs / ours, the median over the rounds; above 1 we are faster.
        worst: the lowest ratio of a round.
        must: the ratio asked for.
        limit: time that the machine needs at least, as a share of ours; None where no such bound is known.
        script: which script timed it.
    """

    operation: str
    ours: float
    peer: str | None = None
    theirs: float | None = None
    ratio: float | None = None
    worst: float | None = None
    must: float | None = None
    limit: float | None = None
    script: str = ""


class Bench:
    """Collects rows.

    Args:
        device: where the memories live; ``"cpu"`` is timed as CPU time, a GPU as wall time around a synchronisation.
        quick: fewer rounds and smaller sizes, to see whether the scripts run.
    """

    def __init__(self, device: str = "cpu", quick: bool = False) -> None:
        self.device = device
        self.quick = quick
        self.script = ""
        self.rows: list[Row] = []
        self.notes: dict[str, list[str]] = {}

    def compare(
        self,
        operation: str,
        ours: Work,
        peers: Mapping[str, Peer | tuple[Work | None, float | None]] | None = None,
        *,
        calls: int = 100,
        per: int = 1,
        rounds: int = 9,
        limit: float | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Times ``ours`` and every peer in turn, ``rounds`` times over.

        Args:
            operation: what is timed.
            peers: whom we compare with, by name.
            calls: of each piece of work per round; more if ours would take less than `ROUND`.
            per: operations in one piece of work; times are divided by it.
            limit: seconds per operation that the machine needs at least.
            clock: CPU time of this thread if None; wall time for what waits for a disk.
        """
        rounds = 3 if self.quick else rounds
        calls = max(1, calls // 10) if self.quick else calls
        clock = clock or (time.thread_time if self.device == "cpu" else self._synchronised)
        works: dict[str, tuple[Work, int]] = {"": (ours, per)}
        others = {name: Peer(*given) for name, given in (peers or {}).items()}
        for name, other in others.items():
            if other.work is None:
                self.note(f"{operation}: {name} is not installed")
            else:
                works[name] = other.work, other.per or per
        times: dict[str, list[float]] = {name: [] for name in works}
        for work, _ in works.values():
            work()  # memory that a virtual machine has not used before costs more than most work
        if not self.quick:
            start, done = clock(), 0
            while (took := clock() - start) < ROUND / 10:
                ours()
                done += 1
            calls = max(calls, math.ceil(ROUND * done / took))
        gc.freeze()  # else a full collection, of all that the peers' libraries hold, falls into somebody's round
        for _ in range(rounds):
            for name, (work, operations) in works.items():
                start = clock()
                for _ in range(calls):
                    work()
                times[name].append((clock() - start) / calls / operations)
        gc.unfreeze()
        mine = statistics.median(times[""])
        share = None if limit is None else limit / mine
        if len(works) == 1:
            self.add(Row(operation, mine, limit=share))
        for name in list(works)[1:]:
            ratios = [theirs / own for theirs, own in zip(times[name], times[""], strict=True)]
            theirs = statistics.median(times[name])
            ratio = statistics.median(ratios)
            self.add(Row(operation, mine, name, theirs, ratio, min(ratios), others[name].must, share))

    def add(self, row: Row) -> None:
        """Takes a row and prints it."""
        self.rows.append(replace(row, script=self.script))
        Console(width=150).print(" | ".join(_cells(row)), highlight=False)

    def note(self, text: str) -> None:
        """Something the reader should know, once."""
        notes = self.notes.setdefault(self.script, [])
        if text not in notes:
            notes.append(text)
            print(text)

    def _synchronised(self) -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    def table(self) -> Table:
        """All rows."""
        table = Table("operation", "ours", "peer", "theirs", "ratio", "worst", "must", "share of limit")
        for row in self.rows:
            table.add_row(*_cells(row))
        return table

    def save(self, path: Path) -> None:
        """Writes the rows, with what they were measured on, to a file, or in a folder to one named after the processor
        (or GPU).

        Rows that other scripts put there stay, unless they come from another machine or another torch.
        """
        if not path.suffix:
            chip = _processor() if self.device == "cpu" else torch.cuda.get_device_name()
            words = re.findall(r"[a-z0-9]+", re.sub(r"\((r|tm)\)", "", chip.lower()))
            path = path / f"{'-'.join(words) or 'unknown'}.json"
        machine = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "processor": _processor(),
            "compiled loops": str(loops is not None and scan.compiled is not None).lower(),
        }
        if self.device != "cpu":
            machine["gpu"] = torch.cuda.get_device_name()
        rows, notes = [asdict(row) for row in self.rows], dict(self.notes)
        peers = {name: _version(name) for name in ("torchrl", "faiss", "avalanche") if peer(name)}
        found = json.loads(path.read_text()) if path.exists() else {}
        if found.get("machine") == machine:
            done = {row.script for row in self.rows} | self.notes.keys()
            rows += [row for row in found["rows"] if row["script"] not in done]
            notes |= {script: texts for script, texts in found["notes"].items() if script not in done}
            peers = {**found["peers"], **peers}
        limits = {"copy_bytes_per_second": 1 / copy_seconds(1), "sum_bytes_per_second": 1 / sum_seconds(1)}
        limits["sgemm_flop_per_second"] = 1 / sgemm_seconds(1)
        content = {
            "machine": machine,
            "peers": peers,
            "limits": limits if self.device == "cpu" else {},
            "rows": sorted(rows, key=lambda row: row["script"]),
            "notes": dict(sorted(notes.items())),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")


def peer(module: str) -> ModuleType | None:
    """A library to compare with, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


@cache
def _rate(what: str) -> float:
    """Seconds per byte or per floating-point operation, the best of several runs on one thread."""
    x = torch.randn(1 << 26)  # 256 MiB, beyond any cache
    y = torch.empty_like(x)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    works: dict[str, tuple[Work, int]] = {
        "copy": (lambda: y.copy_(x), x.nbytes),
        "sum": (x.sum, x.nbytes),
        "sgemm": (lambda: a @ b, 2 * 1024**3),
    }
    work, size = works[what]
    best = float("inf")
    for _ in range(8):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return best / size


def copy_seconds(size: int) -> float:
    """Seconds to copy ``size`` bytes from memory to memory."""
    return size * _rate("copy")


def sum_seconds(size: int) -> float:
    """Seconds to read ``size`` bytes of float32 from memory."""
    return size * _rate("sum")


def sgemm_seconds(operations: int) -> float:
    """Seconds for so many floating-point operations of a float32 matrix product."""
    return operations * _rate("sgemm")


def resident(name: str = "VmRSS") -> int:
    """Memory of this process in bytes as Linux counts it, that of mapped files included: now, or the most (``VmHWM``)
    since `forget_peak`. 0 where the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(rf"{name}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else 0


def faults() -> int:
    """Pages that this thread has waited for; 0 where the system does not tell. Those of a file on a disk are protected
    again whenever the system has written them there, so that the next row for such a page waits."""
    stat = Path("/proc/thread-self/stat")
    return int(stat.read_text().rpartition(")")[2].split()[7]) if stat.exists() else 0


def forget_peak() -> None:
    """Lets the most memory held be counted from now on."""
    refs = Path("/proc/self/clear_refs")
    if refs.exists():
        refs.write_text("5")


def main(measure: Callable[[Bench], None]) -> None:
    """Runs one script on its own: ``python benchmarks/add.py [--quick] [--device cuda] [--out FILE]``."""
    parser = argparse.ArgumentParser(description=importlib.import_module(measure.__module__).__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see whether it runs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON with the figures, or a folder for one named after the processor")
    chosen = parser.parse_args()
    run([measure], chosen.device, chosen.quick, chosen.out)


def run(measures: list[Callable[[Bench], None]], device: str, quick: bool, out: Path | None) -> None:
    """Runs several scripts, prints the table and writes the JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if not quick:
        # A virtual machine may be given its memory only when it first uses it, which can take longer than what is
        # measured: let it have as much as is needed before.
        torch.ones(3 << 30, dtype=torch.uint8)
    bench = Bench(device, quick)
    for measure in measures:
        bench.script = Path(inspect.getfile(measure)).stem
        measure(bench)
    Console(width=150).print(bench.table())
    if out is not None:
        bench.save(out)


def _cells(row: Row) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    def seconds(value: float | None) -> str:
        if value is None:
            return ""
        return f"{value * 1e6:.1f} us" if value < 1e-3 else f"{value * 1e3:.1f} ms"

    return [
        row.operation,
        seconds(row.ours),
        row.peer or "",
        seconds(row.theirs),
        number(row.ratio, ".2f"),
        number(row.worst, ".2f"),
        number(row.must, "g"),
        number(row.limit, ".0%"),
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(name: str) -> str:
    return str(getattr(peer(name), "__version__", "?"))
