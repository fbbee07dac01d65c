"""memreplay: the command line, a thin dispatcher to the domains."""

from __future__ import annotations

import argparse
import ast
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import __version__
from .arguments import Parser, told

DOMAINS = {
    "vision": ("vision_cls", "few-shot image classification"),
    "detection": ("detection", "few-shot object detection"),
    "nlp": ("nlp", "few-shot text classification"),
}
"""What the user types: the package behind it, and what it is. The extra to install has the typed name."""

VERBS = {
    "train": "learn classes from data, few-shot sessions included",
    "evaluate": "measure a saved adapter",
    "predict": "label new data with a saved adapter",
    "add-classes": "teach a saved adapter new classes from a few shots",
    "forget": "remove classes or sources from a saved adapter",
    "episodes": "measure N-way K-shot episodes, of a published split or of data of one's own",
}
"""A verb of a domain is the function ``main(args)`` of the module of that name, which parses its own arguments."""

_HOME = Path(__file__).parent


def main(args: Sequence[str] | None = None) -> None:
    """Runs ``memreplay ARGS``. A mistake in the arguments ends with exit code 2 and one line on standard error, a
    package that is not installed with exit code 1 and the command that installs it.
    """
    words = list(sys.argv[1:] if args is None else args)
    if len(words) > 1 and words[1] in verbs(words[0]):
        domain, verb = words[:2]
        _call(domain, verb.replace("-", "_"), "main", words[2:])
        return
    if not words or words in [[domain] for domain in DOMAINS]:
        words.append("--help")
    chosen = _parser().parse_args(words)
    match chosen.subcommand:
        case "demo":
            demo(chosen.demo.only, chosen.demo.out)
        case "recipes":
            for name, summary in recipes().items():
                print(f"{name:<28} {summary}")
        case "reproduce":
            options = chosen.reproduce
            if options.seeds is not None and options.seeds < 1:
                print(f"memreplay: seeds is {options.seeds}; expected at least 1", file=sys.stderr)
                sys.exit(2)
            reproduce(options.recipe, seeds=options.seeds, data=options.data, out=options.out, only=options.only)
        case "doctor":
            doctor(chosen.doctor.domain)
        case "inspect":
            inspect(chosen.inspect.memory, chosen.inspect.json, chosen.inspect.model)
        case "report":
            report(chosen.report.runs, chosen.report.out, chosen.report.title)


def demo(only: str | None, out: Path) -> None:
    """Runs ``demo(out)`` of every domain that has one, or of ``only``. A single one writes to ``out`` itself, several
    to a folder each.
    """
    shown = [only] if only else [domain for domain in DOMAINS if _exists(domain, "demo")]
    folders = [out if len(shown) == 1 else out / domain for domain in shown]
    for domain, folder in zip(shown, folders, strict=True):
        _call(domain, "demo", "demo", folder)
    told = [folder for folder in folders if (folder / "results.json").is_file()]
    if told and all(find_spec(package) for package in ("jinja2", "vl_convert")):
        report(told, out / "report.html", "What a memory does for few-shot learning")


def reproduce(recipe: str, *, seeds: int | None, data: Path | None, out: Path | None, only: Sequence[str]) -> None:
    """Runs ``reproduce(seeds=, data=, out=, only=)`` of the recipe's module; results go to ``runs/<recipe>`` unless
    ``out`` says otherwise.
    """
    package, _, name = recipe.partition("/")
    domain = next(domain for domain, (folder, _) in DOMAINS.items() if folder == package)
    module = f"recipes.{name.replace('-', '_')}"
    _call(domain, module, "reproduce", seeds=seeds, data=data, out=out or Path("runs", recipe), only=tuple(only))


def doctor(domain: str | None) -> None:
    """Says what is installed and works, for all domains or for one; exit code 1 where one of them cannot run."""
    from .doctor import doctor

    asked = [domain] if domain else [name for name in DOMAINS if _exists(name, "__init__")]
    absent = [name for name in asked if not _exists(name, "__init__")]
    if not doctor([name for name in asked if name not in absent], absent):
        sys.exit(1)


def inspect(memory: Path, as_json: bool, model: Path | None = None) -> None:
    """Shows what there is in a saved memory, adapter or run, and how stale it is beside a model."""
    from .inspection import inspection

    try:
        inspection(memory, as_json, model)
    except (FileNotFoundError, ValueError) as error:
        print(f"memreplay inspect: {told(error, {'model': model})}", file=sys.stderr)
        sys.exit(2)


def report(runs: Sequence[Path], out: Path, title: str) -> None:
    """Writes a page about runs."""
    from .core.reporting.report import write_report

    try:
        print(f"wrote {write_report(runs, out, title)}: open it in a browser")
    except (OSError, ValueError) as error:
        print(f"memreplay report: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == __package__:
            raise
        needs = f"memreplay report needs {error.name}, which is not installed: pip install 'memreplay[report]'"
        print(needs, file=sys.stderr)
        sys.exit(1)


def recipes() -> dict[str, str]:
    """Names (``package/recipe``) and first docstring lines of all recipes, found without importing them."""
    found = {}
    for package, _ in DOMAINS.values():
        folder = _HOME / package / "recipes"
        for module in pkgutil.iter_modules([str(folder)]):
            text = ast.get_docstring(ast.parse((folder / f"{module.name}.py").read_text("utf-8"))) or ""
            found[f"{package}/{module.name.replace('_', '-')}"] = text.partition("\n")[0]
    return found


def verbs(domain: str) -> list[str]:
    """The verbs that ``domain`` has; none for a word that names no domain."""
    return [verb for verb in VERBS if _exists(domain, verb.replace("-", "_"))]


def _exists(domain: str, module: str) -> bool:
    return domain in DOMAINS and (_HOME / DOMAINS[domain][0] / f"{module}.py").is_file()


def _call(domain: str, module: str, function: str, *args: object, **options: object) -> None:
    package = f"{__package__}.{DOMAINS[domain][0]}"
    try:
        getattr(importlib.import_module(f"{package}.{module}"), function)(*args, **options)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == __package__:
            raise
        print(
            f"memreplay {domain} needs {error.name}, which is not installed: pip install 'memreplay[{domain}]'",
            file=sys.stderr,
        )
        sys.exit(1)
    except ValueError as error:
        # an error names the argument first: one of these was typed by the user
        said = told(error, options)
        if not said.startswith(tuple(f"{name}{mark}" for name in options for mark in (" is ", ": "))):
            raise
        print(f"memreplay: {said}", file=sys.stderr)
        sys.exit(2)


def _parser() -> Parser:
    parser = Parser(
        prog="memreplay",
        description="Few-shot learning that does not forget, by replaying a memory.",
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"memreplay {__version__}", help="print the version")
    commands = parser.add_subcommands(metavar="COMMAND", title="commands")

    command = _add(commands, "memreplay demo", "see it work: learning with and without memory, in two minutes")
    shown = [domain for domain in DOMAINS if _exists(domain, "demo")]
    command.add_argument("--only", choices=shown, metavar="DOMAIN", help=f"one of: {', '.join(shown)}")
    command.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="results (default: demo-out)"
    )

    for domain, (_, summary) in DOMAINS.items():
        if verbs(domain):
            of_domain = _add(commands, f"memreplay {domain}", f"{summary}: {', '.join(verbs(domain))}")
            of_verbs = of_domain.add_subcommands(metavar="VERB", title="verbs")
            for verb in verbs(domain):
                _add(of_verbs, f"memreplay {domain} {verb}", VERBS[verb])

    _add(commands, "memreplay recipes", "list the published tables that can be reproduced")

    command = _add(commands, "memreplay reproduce", "run a published table, print its figures beside ours")
    command.add_argument("recipe", choices=list(recipes()), metavar="RECIPE", help="as `memreplay recipes` lists it")
    command.add_argument("--seeds", type=int, metavar="N", help="number of seeds (default: the recipe's)")
    command.add_argument("--data", type=Path, metavar="DIR", help="data (default: $MEMREPLAY_DATA, or a download)")
    command.add_argument("--out", type=Path, metavar="DIR", help="results (default: runs/RECIPE)")
    command.add_argument("--only", nargs="+", default=[], metavar="NAME", help="rows of the table (default: all)")

    command = _add(commands, "memreplay inspect", "show what a saved memory, adapter or run remembers")
    command.add_argument("memory", type=Path, metavar="MEMORY", help="the folder where it was saved")
    command.add_argument(
        "--model", type=Path, metavar="FOLDER", help="an adapter: compare stored features with its model's"
    )
    command.add_argument("--json", action="store_true", help="for machines: everything, as JSON")

    command = _add(commands, "memreplay report", "write one HTML file about runs, beside one another")
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or a results.json")
    command.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page (default: report.html)"
    )
    command.add_argument("--title", default="", metavar="TITLE", help="its heading (default: the runs)")

    command = _add(commands, "memreplay doctor", "say what is installed, what works, and what to install")
    command.add_argument("domain", nargs="?", choices=list(DOMAINS), metavar="DOMAIN", help="default: every domain")
    return parser


def _add(commands: Any, prog: str, summary: str) -> Parser:
    parser = Parser(description=f"{summary[0].upper()}{summary[1:]}.", formatter_class=argparse.HelpFormatter)
    commands.add_subcommand(prog.rpartition(" ")[2], parser, help=summary)
    parser.prog = prog
    return parser
