"""Parser: command-line and YAML arguments whose mistakes cost one line."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

import jsonargparse

_MISTAKE = re.compile(
    r"(?:unrecognized arguments: |[Oo]ption '|invalid choice: '|Got value: |import path string: )([\w./-]+)"
)

_SHORTER = (
    (re.compile(r"(?:\ban? )?<class '(?:\w+\.)*(\w+)'>"), r"\1"),
    (
        # what is wrong within an option that may also be null
        re.compile(r"Does not validate .* Errors: - (?:Problem with .*? '[^']*': |(?=\w+ is ))(.*?) - Expected .*"),
        r"\1",
    ),
    (
        re.compile(r"Does not validate .* Subtypes: \[(.*?)\] Errors: .* Given value: (.*)"),
        r"Expected \1. Got value: \2",
    ),
    (re.compile(r"Parser key \"(.*?)\""), r"\1"),
)
"""How jsonargparse puts it, and in fewer words."""


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser, except that what it refuses ends with exit code 2 and one line that names the near miss.

    Entry points use it, or hand it to ``jsonargparse.auto_cli(..., parser_class=Parser)``.

    >>> parser = Parser(prog="train", exit_on_error=False)
    >>> _ = parser.add_argument("--steps", type=int)
    >>> parser.parse_args(["--stesp", "3"])
    Traceback (most recent call last):
    argparse.ArgumentError: unrecognized arguments: --stesp 3; did you mean --steps?
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = " ".join(message.split())
        for long, short in _SHORTER:
            line = long.sub(short, line)
        # jsonargparse sees some near misses itself
        mistake = None if "did you mean" in line else _MISTAKE.search(line)
        near = _meant(self, mistake.group(1)) if mistake else None
        if near:
            line += f"; did you mean {near}?"
        if not self.exit_on_error:
            raise argparse.ArgumentError(None, line) from ex
        print(f"{self.prog}: {line} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def run(function: Callable[..., Any], parser: Parser, args: Sequence[str]) -> Any:
    """Calls ``function`` with what ``args`` say, by a parser that has its arguments (``add_function_arguments``).

    A function with a folder ``out`` finds its options there as ``config.yaml``, from where ``--config`` reads them
    again. What the function finds wrong with its arguments ends like what the parser finds wrong.
    """
    import yaml

    try:
        chosen = parser.parse_args(list(args))
        made = parser.instantiate(chosen)
        options: dict[str, Any] = {name: value for name, value in vars(made).items() if name != "config"}
        if "config" in chosen and options.get("out") is not None:
            out = Path(options["out"])
            out.mkdir(parents=True, exist_ok=True)
            text = parser.dump(chosen, skip_unset=False)
            (out / "config.yaml").write_text(yaml.safe_dump(yaml.safe_load(text), sort_keys=False), encoding="utf-8")
        return function(**options)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def command(function: Callable[..., Any], prog: str, args: Sequence[str] | None, config: str | None = None) -> Any:
    """`run` with a parser of the function's own arguments, described by the first line of its docstring.

    Args:
        function: what the command does.
        prog: the command, such as ``"memreplay nlp train"``.
        args: the words after it; None: those of the command line.
        config: what ``--config`` takes, for its help; None: there is no such option.
    """
    parser = Parser(prog=prog, description=(function.__doc__ or "").partition("\n")[0])
    if config is not None:
        parser.add_argument("--config", action="config", help=config)
    parser.add_function_arguments(function, fail_untyped=True)
    return run(function, parser, sys.argv[1:] if args is None else args)


def near_miss(word: str, words: Iterable[str]) -> str | None:
    """The one of ``words`` that ``word`` looks like a slip of, if any; upper and lower case are alike.

    >>> near_miss("Resevoir", ["Reservoir", "Fifo"])
    'Reservoir'
    """
    known = {known.lower(): known for known in words}
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.65)
    return known[close[0]] if close else None


def _meant(parser: argparse.ArgumentParser, word: str) -> str | None:
    """What could have been typed instead of ``word``: an option if it is one; else a key of a file, a choice or the
    name of a class. Of a dotted option the last part alone is recognised too."""
    meant = {}
    for action in parser._actions:
        for option in action.option_strings:
            name = option.lstrip("-")
            meant[name] = option if word.startswith("-") else name
            last = name.rpartition(".")[2]
            meant.setdefault(last, option if word.startswith("-") else last)
        if not word.startswith("-"):
            choices = [str(choice) for choice in action.choices or ()]
            meant |= {choice: choice for choice in (*choices, *_names(getattr(action, "_typehint", None)))}
    near = near_miss(word.lstrip("-"), meant)
    return meant[near] if near else None


def _names(hint: Any) -> Iterator[str]:
    """Words of a Literal and names of subclasses, wherever they are in a type hint."""
    if isinstance(hint, str):
        yield hint
    elif isinstance(hint, type) and hint.__module__.partition(".")[0] not in sys.stdlib_module_names:
        subclasses: list[type] = hint.__subclasses__()
        yield from (subclass.__name__ for subclass in subclasses)
    for inner in get_args(hint):
        yield from _names(inner)
