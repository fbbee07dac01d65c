"""TextSet: labelled texts, and the places they come from."""

from __future__ import annotations

import csv
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import near_miss

_BUILDERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}


@dataclass(frozen=True, eq=False)
class TextSet:
    """Texts with their classes.

    Attributes:
        texts: N texts, none of them empty.
        labels: (N,) int64, positions in ``classes``.
        classes: the names of the classes.

    >>> data = TextSet.of(["hi there", "bye"], ["greet", "leave"])
    >>> data.classes, data.labels.tolist()
    (('greet', 'leave'), [0, 1])
    """

    texts: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]

    @staticmethod
    def of(
        texts: Sequence[str], names: Sequence[str], classes: Sequence[str] | None = None, where: str = "texts"
    ) -> TextSet:
        """Texts with the names of their classes.

        The same text under two labels is kept under both, with a warning: which one is right cannot be known here.

        Args:
            texts: N texts.
            names: the class of each.
            classes: all names, in the order of their numbers; by default those that occur, sorted.
            where: what to call the texts in errors.

        Raises:
            ValueError: an empty text, a missing label, as many names as texts are expected, a name not in ``classes``.
        """
        if len(texts) != len(names):
            raise ValueError(f"{where} has {len(texts)} texts and {len(names)} labels; expected one label per text")
        check_texts(texts, where)
        unnamed = [row for row, name in enumerate(names) if not str(name).strip()]
        if unnamed:
            raise ValueError(f"{where} has no label in {row_names(unnamed)}; expected the name of a class")
        names = [str(name) for name in names]
        known = tuple(sorted(set(names)) if classes is None else classes)
        place = {name: number for number, name in enumerate(known)}
        for name in names:
            if name not in place:
                near = near_miss(name, known)
                raise ValueError(
                    f"{where} has the label {name!r}, which is none of the {len(known)} classes"
                    + (f"; did you mean {near!r}?" if near else "")
                )
        _warn_of_conflicts(texts, names, where)
        return TextSet(tuple(texts), torch.tensor([place[name] for name in names], dtype=torch.int64), known)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def names(self) -> list[str]:
        """The class of each text, by name."""
        return [self.classes[label] for label in self.labels.tolist()]

    def rows(self, index: Tensor) -> TextSet:
        """The texts ``index`` (int64, (n,)); the classes stay as they are."""
        return TextSet(tuple(self.texts[i] for i in index.tolist()), self.labels[index], self.classes)

    def of_classes(self, names: Iterable[str]) -> TextSet:
        """The texts of some classes, which are then the only ones, in the order given."""
        wanted = tuple(names)
        chosen = [row for row, name in enumerate(self.names) if name in set(wanted)]
        return TextSet.of([self.texts[row] for row in chosen], [self.names[row] for row in chosen], wanted)


@dataclass(frozen=True, kw_only=True)
class Shots:
    """Texts to learn from: CSV, TSV, JSON (lines), parquet, a folder with a sub-folder of ``.txt`` files per class, or
    a data set on the Hub as ``owner/name`` or ``owner/name:split``.

    Args:
        train: where they are.
        text: the column with the texts.
        label: the column with the names of the classes.
    """

    train: str
    text: str = "text"
    label: str = "label"

    def load(self) -> TextSet:
        """The texts to learn from."""
        return TextSet.of(*read_labelled(self.train, self.text, self.label), where=self.train)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Texts to be judged on, in any form that `Shots` can have.

    Args:
        test: where they are.
        text: the column with the texts.
        label: the column with the names of the classes.
        out_of_scope: a label that stands for none of the classes.
    """

    test: str
    text: str = "text"
    label: str = "label"
    out_of_scope: str | None = None

    def load(self, classes: Sequence[str]) -> tuple[TextSet, list[str]]:
        """The texts that belong to ``classes``, and those that belong to none.

        Raises:
            ValueError: a label that is none of the classes and is not ``out_of_scope``, or no text of the classes.
        """
        texts, names = read_labelled(self.test, self.text, self.label, "test")
        inside = [row for row, name in enumerate(names) if name != self.out_of_scope]
        outside = [text for text, name in zip(texts, names, strict=True) if name == self.out_of_scope]
        if not inside:
            raise ValueError(f"{self.test} has no texts but those out of scope; expected some of the classes")
        return TextSet.of([texts[row] for row in inside], [names[row] for row in inside], classes, self.test), outside


@dataclass(frozen=True, kw_only=True)
class TextData(Shots):
    """Texts to learn from, to choose by and to be judged on.

    Args:
        train: texts to learn from.
        test: texts to be judged on, once, at the end.
        valid: texts to choose by, such as the threshold for what is out of scope.
        text: the column with the texts.
        label: the column with the names of the classes.
        out_of_scope: a label in ``valid`` and ``test`` that stands for none of the classes.
    """

    test: str | None = None
    valid: str | None = None
    out_of_scope: str | None = None

    @property
    def sources(self) -> dict[str, str]:
        """``valid`` and ``test``, those that are given."""
        given = {"valid": self.valid, "test": self.test}
        return {name: source for name, source in given.items() if source is not None}

    def judged(self, source: str) -> Judged:
        """``valid`` or ``test`` as texts to be judged on."""
        return Judged(test=source, text=self.text, label=self.label, out_of_scope=self.out_of_scope)


def read_labelled(
    source: str | Path, text: str = "text", label: str = "label", split: str = "train"
) -> tuple[list[str], list[str]]:
    """Texts and the names of their classes, see `TextData` for the places they can come from.

    Args:
        source: a file, a folder or a data set on the Hub.
        text: the column with the texts.
        label: the column with the labels.
        split: of a data set on the Hub that does not name one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, bytes are not UTF-8, or a text is empty.
    """
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    columns = _table(str(source), split)
    texts, names = _column(columns, text, "text", str(source)), _column(columns, label, "label", str(source))
    check_texts(texts, str(source))
    return texts, names


def read_texts(source: str | Path, text: str = "text") -> list[str]:
    """Texts alone: the column ``text`` of a table, or the lines of any other file."""
    path = Path(source)
    if path.suffix.lower() in _BUILDERS:
        return _column(_table(str(source), "test"), text, "text", str(source))
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    check_utf8(path)
    with path.open(encoding="utf-8-sig") as file:
        return [line.rstrip("\n") for line in file]


def check_texts(texts: Sequence[str], where: str) -> None:
    """Raises ValueError where a text is empty or blank, naming the rows, or is no text, or none that can be written."""
    for row, value in enumerate(texts):
        if not isinstance(value, str):
            raise ValueError(f"{where} has a {type(value).__name__} in row {row + 1}; expected texts")
    empty = [row for row, value in enumerate(texts) if not value.strip()]
    if empty:
        raise ValueError(f"{where} has an empty text in {row_names(empty)}; expected at least one character")
    broken = [row for row, value in enumerate(texts) if not _is_unicode(value)]
    if broken:
        raise ValueError(
            f"{where} has half a character (a lone surrogate) in {row_names(broken)}; expected Unicode text"
        )


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_utf8(path: Path) -> None:
    """Raises ValueError where a file is not UTF-8: it names the line and the byte."""
    position = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path} is not UTF-8: byte {position + error.start} (line {number}) is "
                    f"0x{line[error.start]:02x}; save it as UTF-8"
                ) from None
            position += len(line)


def row_names(rows: Sequence[int]) -> str:
    """Rows counted from 0, as people count them: the first five by number.

    >>> row_names([0, 4])
    'rows 1, 5'
    """
    listed = ", ".join(str(row + 1) for row in rows[:5])
    return f"row{'s' if len(rows) > 1 else ''} {listed}" + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def _warn_of_conflicts(texts: Sequence[str], names: Sequence[str], where: str) -> None:
    first: dict[str, str] = {}
    conflicts = [(t, first[t], n) for t, n in zip(texts, names, strict=True) if first.setdefault(t, n) != n]
    if conflicts:
        text, one, other = conflicts[0]
        warnings.warn(
            f"{where} has {len(conflicts)} texts under more than one label, such as {text!r} under {one!r} and "
            f"{other!r}; all are kept",
            stacklevel=3,
        )


def _folder(path: Path) -> tuple[list[str], list[str]]:
    texts, names = [], []
    for file in sorted(path.glob("*/*.txt")):
        check_utf8(file)
        texts.append(file.read_text("utf-8-sig").strip())
        names.append(file.parent.name)
        if not texts[-1]:
            raise ValueError(f"{file} is empty; expected a text")
    if not texts:
        raise ValueError(f"{path} has no texts; expected a sub-folder of .txt files for every class")
    return texts, names


def _table(source: str, split: str) -> Any:
    """The `datasets.Dataset` behind a file or a Hub id."""
    import datasets

    path = Path(source)
    builder = _BUILDERS.get(path.suffix.lower())
    silent, says = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong is told once, below
    try:
        if builder is None and not path.is_file():
            name, _, named_split = source.partition(":")
            if "/" not in name or path.suffix or path.is_absolute() or name.count("/") > 1:
                raise FileNotFoundError(f"there is no file {source!r}, and it is no data set id such as 'owner/name'")
            return datasets.load_dataset(name, split=named_split or split)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {source!r}")
        if builder is None:
            raise ValueError(f"{source} ends in {path.suffix!r}; expected one of {', '.join(sorted(_BUILDERS))}")
        return _file(path, builder)
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(f"{source} cannot be read: {error.__cause__ or error}") from error
    finally:
        datasets.logging.set_verbosity(says)
        if not silent:
            datasets.enable_progress_bars()


def _file(path: Path, builder: str) -> Any:
    """The `datasets.Dataset` in a file."""
    import datasets

    options: dict[str, Any] = {}
    if builder != "parquet":
        check_utf8(path)
    if builder == "csv":
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        # as strings, without which "007" would be a number and the text "null" missing
        columns = datasets.Features(dict.fromkeys(_header(path, delimiter), datasets.Value("string")))
        options = {"features": columns, "encoding": "utf-8-sig", "keep_default_na": False, "sep": delimiter}
    read = {"csv": datasets.Dataset.from_csv, "json": datasets.Dataset.from_json}.get(
        builder, datasets.Dataset.from_parquet
    )
    with tempfile.TemporaryDirectory() as scratch:  # datasets would keep a copy of the data for ever
        try:
            return read(str(path), keep_in_memory=True, cache_dir=scratch, **options)
        except (StopIteration, ValueError) as error:  # what it makes of a file without rows
            raise ValueError(f"{path} has no rows that can be read; expected texts") from error


def _header(path: Path, delimiter: str) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file, delimiter=delimiter), None)
    if not header:
        raise ValueError(f"{path} is empty; expected a first line with the names of the columns")
    return header


def _column(table: Any, name: str, argument: str, source: str) -> list[str]:
    if name not in table.column_names:
        near = near_miss(name, table.column_names)
        raise ValueError(
            f"{argument} is {name!r}, which is no column of {source}; it has {table.column_names}"
            + (f"; did you mean {near}?" if near else "")
        )
    values = list(table[name])
    names = getattr(table.features[name], "names", None)
    if names is not None:
        return [names[value] for value in values]
    missing = [row for row, value in enumerate(values) if value is None]
    if missing:
        raise ValueError(f"{source} has nothing in column {name!r} in {row_names(missing)}; expected a {argument}")
    return [str(value) for value in values]
