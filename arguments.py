"""Parser: command-line and YAML arguments whose mistakes cost one line."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterator
from typing import Any, NoReturn, get_args

import jsonargparse

_MISTAKE = re.compile(
    r"(?:unrecognized arguments: |[Oo]ption '|invalid choice: '|Got value: |import path string: )([\w./-]+)"
)

_CLASS = re.compile(r"(?:\ban? )?<class '(?:\w+\.)*(\w+)'>")


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser, except that what it refuses ends with exit code 2 and one line that names the near miss.

    Entry points hand it to ``jsonargparse.auto_cli(..., parser_class=Parser)``.

    >>> parser = Parser(prog="train", exit_on_error=False)
    >>> _ = parser.add_argument("--steps", type=int)
    >>> parser.parse_args(["--stesp", "3"])
    Traceback (most recent call last):
    argparse.ArgumentError: unrecognized arguments: --stesp 3; did you mean --steps?
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = _CLASS.sub(r"\1", " ".join(message.split()))
        mistake = _MISTAKE.search(line)
        near = near_miss(mistake.group(1), _words(self)) if mistake else None
        if near:
            line += f"; did you mean {near}?"
        if not self.exit_on_error:
            raise argparse.ArgumentError(None, line) from ex
        print(f"{self.prog}: {line} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def near_miss(word: str, words: Iterator[str] | list[str]) -> str | None:
    """The one of ``words`` that ``word`` looks like a slip of, if any; upper and lower case are alike.

    >>> near_miss("Resevoir", ["Reservoir", "Fifo"])
    'Reservoir'
    """
    known = {known.lower(): known for known in words}
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.7)
    return known[close[0]] if close else None


def _words(parser: argparse.ArgumentParser) -> Iterator[str]:
    """All that could have been typed: options, the last part of dotted ones, choices, names of classes."""
    for action in parser._actions:
        for option in action.option_strings:
            yield option
            yield option.lstrip("-").rpartition(".")[2]
        yield from (str(choice) for choice in action.choices or ())
        yield from _names(getattr(action, "_typehint", None))


def _names(hint: Any) -> Iterator[str]:
    if isinstance(hint, str):
        yield hint
    elif isinstance(hint, type):
        subclasses: list[type] = hint.__subclasses__()
        yield from (subclass.__name__ for subclass in subclasses)
    for inner in get_args(hint):
        yield from _names(inner)
