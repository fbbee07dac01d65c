"""Parser: command-line and YAML arguments whose mistakes cost one line."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, get_args, get_type_hints

import jsonargparse

_NEAR = re.compile(r"(?:unrecognized arguments: |[Oo]ption '|invalid choice: ')([\w./-]+)")

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
    (re.compile(r": - Expected a path .*? - (Expected a dot)"), r": \1"),
    (re.compile(r"Parser key \"(.*?)\""), r"\1"),
    (re.compile(r"Problem with given class_path '(?:\w+\.)*(\w+)': "), r"\1: "),
    (re.compile(r"File does not exist: ('.*?')"), r"there is no file \1"),
)
"""How jsonargparse puts it, and in fewer words."""

_VALUE = re.compile(r"((?:[\w.]+: )*[\w.]+): Expected (?:an? )?(.+?)(?:\. Got value|): (.*)")
"""How it says that a value is not of its type."""
_NESTED = re.compile(r"NestedArg\(key='([^']*)', val=(.*)\)")
"""How it puts the value of an option within an option that may be null."""
_REQUIRED = "the following arguments are required: "

_PLAINER = (
    (re.compile(r"``([^`]*)``"), r"\1"),
    (re.compile(r"<class '(?:\w+\.)*(\w+)'>"), r"\1"),
    (re.compile(r"type: Optional\[(.*)\](?=, default|, known|\))"), r"type: \1 | null"),
    (re.compile(r"type: Literal\[[^]]*\](?:, |(?=\)))"), ""),
    (re.compile(r"Literal\[([^]]*)\]"), r"\1"),
    (re.compile(r"\{'class_path': '(?:\w+\.)*(\w+)'\}"), r"\1"),
    (re.compile(r"default: (True|False)\b"), lambda found: f"default: {found[1].lower()}"),
    (re.compile(r" \(\)"), ""),
)
"""How the help puts it, and for people."""


class Help(jsonargparse.DefaultHelpFormatter):
    """Help that fits its lines, with types and defaults as they are typed."""

    def _expand_help(self, action: argparse.Action) -> str:
        text: str = super()._expand_help(action)
        for pattern, plainer in _PLAINER:
            text = pattern.sub(plainer, text)
        return re.sub(r", known subclasses: ([^)]*)", _classes_told, text)

    def start_section(self, heading: str | None) -> None:
        """Headings come from docstrings, which have longer lines."""
        super().start_section(heading and textwrap.fill(heading, self._width))

    def add_usage(self, usage: str | None, actions: Iterable[argparse.Action], *args: Any, **kwargs: Any) -> None:
        """With many options, the usage names those that are needed."""
        listed = list(actions)
        if usage is None and len(listed) > 10:
            needed = [action for action in listed if action.required]
            words = [f"{action.option_strings[0]} {_shout(action)}" for action in needed if action.option_strings]
            usage = " ".join(["%(prog)s", *words, "[options]"])
        super().add_usage(usage, listed, *args, **kwargs)


def _shout(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.rpartition(".")[2].upper())


def _classes_told(found: re.Match[str]) -> str:
    """The classes to choose from, by their short names; nothing where they are not this package's, which are many."""
    names = found[1].split(", ")
    ours = all(name.startswith(f"{__package__}.") for name in names)
    return f", one of: {', '.join(name.rpartition('.')[2] for name in names)}" if ours else ""


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser, except that what it refuses ends with exit code 2 and one line that names the argument,
    its value, what was expected, and the near miss.

    Entry points use it, or hand it to ``jsonargparse.auto_cli(..., parser_class=Parser)``.

    >>> parser = Parser(prog="train", exit_on_error=False)
    >>> _ = parser.add_argument("--steps", type=int)
    >>> parser.parse_args(["--stesp", "3"])
    Traceback (most recent call last):
    argparse.ArgumentError: unrecognized arguments: --stesp 3; did you mean --steps?
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "formatter_class": Help, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line, prog = " ".join(message.split()), self.prog
        for long, short in _SHORTER:
            line = long.sub(short, line)
        line = re.sub(r"^([\w.]+): (?!there )([\w.]+) is ", r"\1.\2 is ", line)  # an option within an option
        line = re.sub(r"^([\w.]+): Option ('\w+') is not accepted", r"\1 has no option \2", line)
        near = None
        if line.startswith(_REQUIRED):
            prog, line = self._required(line.removeprefix(_REQUIRED).split(", "))
        elif found := _VALUE.fullmatch(line):
            line, near = self._refused(*found.groups())
        # jsonargparse sees some near misses itself
        elif "did you mean" not in line and (found := _NEAR.search(line)):
            near = _meant(self._actions, found[1])
        if near:
            line += f"; did you mean {near}?"
        if not self.exit_on_error:
            raise argparse.ArgumentError(None, line) from ex
        print(f"{prog}: {line} (see {prog} --help)", file=sys.stderr)
        sys.exit(2)

    def _required(self, names: Sequence[str]) -> tuple[str, str]:
        """The command, and what is needed of it; arguments of a command within have its name before theirs."""
        parser: argparse.ArgumentParser = self
        within = getattr(self, "_subcommands_action", None)
        command = names[0].partition(".")[0]
        if within is not None and command in within._name_parser_map:
            parser = within._name_parser_map[command]
            names = [name.partition(".")[2] for name in names]
        told = []
        for name in names:
            action = next((action for action in parser._actions if action.dest == name), None)
            told.append(_shout(action) if action and not action.option_strings else f"--{name}")
        return parser.prog, f"{' and '.join(told)} {'is' if len(told) == 1 else 'are'} required"

    def _refused(self, key: str, types: str, value: str) -> tuple[str, str | None]:
        """What is wrong with the value of an option, and what may have been meant."""
        key, *deeper = key.split(": ")
        action = next((action for action in self._actions if action.dest == key), None)
        hint = getattr(action, "_typehint", None)
        for name in deeper:
            key, hint = f"{key}.{name}", _options_within(hint).get(name)
        if nested := _NESTED.fullmatch(value):
            value = nested[2].strip("'")
            for name in nested[1].removesuffix(".class_path").split("."):
                within = _options_within(hint)
                if within and name not in within and name != "init_args":
                    return f"{key} has no option {name!r}", near_miss(name, within)
                key, hint = f"{key}.{name}", within.get(name)
            types = getattr(hint, "__name__", "") if not get_args(hint) else str(hint)
        names = [name for name in dict.fromkeys(_names(hint)) if not name.startswith("_")]
        expected = re.sub(r"(?:typing\.)?Literal\[(.*?)\]", r"one of \1", types).replace(", NoneType", " or null")
        of_classes = names and "Literal" not in types and all(word[:1].isupper() for word in types.split(", "))
        if of_classes or types in ("", "dot import path string"):
            expected = "a class by its path"
            if 0 < len(names) < 16:
                expected = f"one of {', '.join(names)}, or {expected}"
        return f"{key} is {value!r}; expected {expected}", near_miss(value.rpartition(".")[2], names)


def _options_within(hint: Any) -> dict[str, Any]:
    """The fields of the dataclass in a type hint, with their types; none where there is no such class."""
    classes = [one for one in (hint, *get_args(hint)) if dataclasses.is_dataclass(one)]
    return get_type_hints(classes[0]) if classes else {}


def run(function: Callable[..., Any], parser: Parser, args: Sequence[str]) -> Any:
    """Calls ``function`` with what ``args`` say, by a parser that has its arguments (``add_function_arguments``).

    A function with a folder ``out`` finds its options there as ``config.yaml``, from where ``--config`` reads them
    again, and what is printed goes to ``log.txt`` as well. What the function finds wrong with its arguments ends like
    what the parser finds wrong. Ctrl-C ends with exit code 130 and says how to go on, where something was saved.
    """
    import yaml

    chosen, out = None, None
    try:
        chosen = parser.parse_args(list(args))
        made = parser.instantiate(chosen)
        options: dict[str, Any] = {name: value for name, value in vars(made).items() if name != "config"}
        with contextlib.ExitStack() as opened:
            if "config" in chosen and options.get("out") is not None:
                out = Path(options["out"])
                out.mkdir(parents=True, exist_ok=True)
                text = yaml.safe_dump(yaml.safe_load(parser.dump(chosen, skip_unset=False)), sort_keys=False)
                (out / "config.yaml").write_text(text, encoding="utf-8")
                if os.environ.get("RANK", "0") == "0":
                    opened.enter_context(logged(out / "log.txt", f"{parser.prog} {' '.join(args)}"))
            return function(**options)
    except KeyboardInterrupt:
        saved = out is not None and "resume" in options and any(out.rglob("checkpoints/latest"))
        how = f"to go on: {parser.prog} --config {out}/config.yaml --resume true" if saved else "nothing was saved"
        print(f"\n{parser.prog}: stopped; {how}", file=sys.stderr)
        sys.exit(130)
    except (OSError, ValueError) as error:
        parser.error(told(error, {} if chosen is None else dict(chosen.items())))


@contextlib.contextmanager
def logged(path: Path, command: str) -> Iterator[None]:
    """Writes all that is printed to ``path`` too, after the command, the time and the versions; not progress bars."""
    from .core.reporting.results import versions

    with path.open("a", encoding="utf-8") as log:
        told = ", ".join(f"{name} {version}" for name, version in versions().items())
        print(f"# {time.strftime('%Y-%m-%d %H:%M:%S')}  {command}\n# {told}", file=log, flush=True)
        both = (contextlib.redirect_stdout(Both(sys.stdout, log)), contextlib.redirect_stderr(Both(sys.stderr, log)))
        with both[0], both[1]:
            yield


class Both:
    """A stream that is written to a log as well, except for what is written over, such as progress bars."""

    def __init__(self, stream: IO[str], log: IO[str]) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        if "\r" not in text and "\x1b[A" not in text:
            self._log.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._log.flush()
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def told(error: Exception, chosen: Mapping[str, Any]) -> str:
    """What an error says, with the name of the option whose value it is about, where it does not say so itself.

    >>> told(ValueError("/nowhere holds no save"), {"adapter": "/nowhere"})
    'adapter: /nowhere holds no save'
    >>> told(ValueError("label is 'elf'; expected one of ['eel', 'elk']"), {})
    "label is 'elf'; expected one of ['eel', 'elk']; did you mean elk?"
    """
    text = str(error).replace("resume=True", "--resume true")
    values = {
        key.replace(".init_args", "").replace("init_args.", ""): str(value)
        for key, value in chosen.items()
        if isinstance(value, str | Path) and len(str(value)) > 1 and not key.endswith("class_path")
    }
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{str(error.filename)!r}: {error.strerror.lower()}"
        folders = [value for value in values.values() if str(error.filename).startswith(f"{value}{os.sep}")]
        text = f"{folders[0]!r}: {text}" if folders else text
    for key, value in values.items():
        last = key.rpartition(".")[2]
        if text.startswith(f"{last} is {value!r}"):
            text = f"{key}{text.removeprefix(last)}"
        elif text.startswith(f"{value} ") and not text.startswith(f"{value} is "):
            text = f"{key}: {text}"
        elif text.startswith(f"{value!r}: "):
            text = f"{key} is {text}"
        elif (named := re.match(r"(\w+) is ", text)) and text[named.end() :].startswith(repr(value)):
            known = any(other.rpartition(".")[2] == named[1] for other in values)
            text = text if known else f"{key}{text.removeprefix(named[1])}"
        elif repr(value) in text and not re.match(r"(?!there )[\w.]+ (?:is|has) ", text):
            text = f"{key}: {text}"
        else:
            continue
        break
    asked = re.match(r"[\w.]+ (?:is|has) '(.*?)'.*?expected (?:one|some) of (.*)", text)
    if (
        asked
        and "did you mean" not in text
        and (near := near_miss(asked[1], re.findall(r"[\w.+-]+(?:/[\w.+-]+)*", asked[2])))
    ):
        text += f"; did you mean {near}?"
    return text


def command(function: Callable[..., Any], prog: str, args: Sequence[str] | None, config: str | None = None) -> Any:
    """`run` with a parser of the function's own arguments, described by the first line of its docstring.

    Args:
        function: what the command does.
        prog: the command, such as ``"memreplay nlp train"``.
        args: the words after it; None: those of the command line.
        config: what ``--config`` takes, for its help; None: there is no such option.
    """
    parser = Parser(prog=prog, description=(function.__doc__ or "").partition("\n")[0].replace("``", ""))
    if config is not None:
        parser.add_argument("--config", action="config", help=config)
    parser.add_function_arguments(function, as_group=False, fail_untyped=True)
    return run(function, parser, sys.argv[1:] if args is None else args)


def near_miss(word: str, words: Iterable[str]) -> str | None:
    """The one of ``words`` that ``word`` looks like a slip of, if any; upper and lower case are alike.

    >>> near_miss("Resevoir", ["Reservoir", "Fifo"])
    'Reservoir'
    """
    known = {known.lower(): known for known in words}
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.65)
    return known[close[0]] if close else None


def _meant(actions: Sequence[argparse.Action], word: str) -> str | None:
    """What could have been typed instead of ``word``: an option if it is one; else a key of a file or a choice. Of a
    dotted option the last part alone is recognised too."""
    meant = {}
    for action in actions:
        for option in action.option_strings:
            name = option.lstrip("-")
            meant[name] = option if word.startswith("-") else name
            last = name.rpartition(".")[2]
            meant.setdefault(last, option if word.startswith("-") else last)
        if not word.startswith("-"):
            meant |= {str(choice): str(choice) for choice in action.choices or ()}
    near = near_miss(word.lstrip("-"), meant)
    return meant[near] if near and near != word else None


def at_least(name: str, value: float, least: float) -> None:
    """Checks a number.

    Raises:
        ValueError: it is smaller.
    """
    if value < least:
        raise ValueError(f"{name} is {value}; expected at least {least}")


def _names(hint: Any) -> Iterator[str]:
    """Words of a Literal and names of subclasses, wherever they are in a type hint."""
    if isinstance(hint, str):
        yield hint
    elif isinstance(hint, type) and hint.__module__.partition(".")[0] not in sys.stdlib_module_names:
        subclasses: list[type] = hint.__subclasses__()
        yield from (subclass.__name__ for subclass in subclasses)
    for inner in get_args(hint):
        yield from _names(inner)
