"""All benchmarks, or those named: ``python benchmarks [NAME ...] [--quick] [--device cuda] [--out FILE]``."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from harness import run

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__main__", "harness"))

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(NAMES)}")
parser.add_argument("--quick", action="store_true", help="few rounds, to see whether they run")
parser.add_argument("--device", default="cpu")
parser.add_argument("--out", type=Path, help="JSON with the figures, or a folder for one named after the processor")
chosen = parser.parse_args()
unknown = sorted(set(chosen.names) - set(NAMES))
if unknown:
    parser.error(f"there is no benchmark {unknown}; expected some of {', '.join(NAMES)}")
run([importlib.import_module(name).measure for name in chosen.names or NAMES], chosen.device, chosen.quick, chosen.out)
