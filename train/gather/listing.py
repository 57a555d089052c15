"""The list of URLs by class: csv, tsv, jsonl or parquet, or saved web pages."""

import csv
import io
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec import Struct

from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.core.fs.opening import open_input
from alexnet_deploy.core.fs.reading import from_json, invalid_value_words
from alexnet_deploy.core.inputs.item import Input
from alexnet_deploy.core.model.labels import is_label
from alexnet_deploy.train.gather.pages import images_in, pages_in

_URL, _CLASS, _LICENCE, _PAGE = "url", "class", "licence", "page"
_SPELLINGS = MappingProxyType({"license": _LICENCE})
_LONGEST_NAME_BYTES = 255
# httpx's limit on a URL; csv readers have limits too.
_LONGEST_TEXT = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One URL of the list."""

    url: str
    """As it is written in the list; perhaps not a valid URL."""
    label: str
    """Name of its class."""
    licence: str = ""
    """Licence of the picture, if the list has it."""
    page: str = ""
    """Page that shows the picture, if the list has it."""


def read_list(path: Path) -> list[Entry]:
    """Return the URLs of a list, in its order.

    A table has the columns `url` and `class`, and perhaps `licence` and `page`. A web page names the images of one
    class, its own name; a folder holds pages or, for each class, a folder of pages.

    Raises UsageError for an unknown kind of list; DataError if it cannot be read, has no URL, or names a class that
    cannot be the name of a folder.
    """
    if path.is_dir():
        read: Callable[[Path], Iterator[Entry]] = _read_pages
    elif (found := _READERS.get(path.suffix.lower())) is not None:
        read = found
    else:
        raise UsageError(f"{path}: its extension is not one of {', '.join(_READERS)}, and it is not a folder of pages")
    try:
        entries = list(read(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8: {error.reason} at byte {error.start:,}") from error
    if not entries:
        raise DataError(f"{path}: holds no URL")
    _check(path, entries)
    return entries


def _check(path: Path, entries: Sequence[Entry]) -> None:
    """Raise DataError for a text that is too long, and for classes that cannot be the names of different folders."""
    same: dict[str, str] = {}
    for number, entry in enumerate(entries, start=1):
        name = entry.label
        if (longest := max(map(len, (entry.url, entry.licence, entry.page)))) > _LONGEST_TEXT:
            raise DataError(
                f"{path}: URL {number:,} has a text of {longest:,} characters, the limit is {_LONGEST_TEXT:,}"
            )
        if same.get(key := unicodedata.normalize("NFC", name).casefold()) == name:
            continue
        if (problem := _problem(name)) is not None:
            raise DataError(f"{path}: URL {number:,}: the class {name!r} {problem}")
        if (other := same.setdefault(key, name)) != name:
            raise DataError(f"{path}: the classes {other!r} and {name!r} differ only in case; use one spelling")


def _problem(name: str) -> str | None:
    if not is_label(name) or not name.isprintable():
        return "is not one line of printable text"
    if name != name.strip():
        return "begins or ends with a space"
    if name.startswith(".") or any(separator in name for separator in "/\\"):
        return "cannot be the name of a folder: it begins with a dot or holds a slash"
    if len(os.fsencode(name)) > _LONGEST_NAME_BYTES:
        return f"has more than {_LONGEST_NAME_BYTES} bytes"
    return None


def _read_csv(path: Path) -> Iterator[Entry]:
    return _read_text(path, ",")


def _read_tsv(path: Path) -> Iterator[Entry]:
    return _read_text(path, "\t")


def _read_text(path: Path, separator: str) -> Iterator[Entry]:
    with open_input(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text, delimiter=separator, strict=True)
        try:
            columns = _columns(path, next(lines, []))
            for cells in lines:
                if not cells:
                    continue
                if len(cells) != len(columns):
                    raise DataError(f"{path}: line {lines.line_num:,} has {len(cells)} cells, not {len(columns)}")
                yield _entry(path, lines.line_num, dict(zip(columns, cells, strict=True)))
        except csv.Error as error:
            raise DataError(f"{path}: line {lines.line_num:,} is not csv: {error}") from error


class _Line(Struct, kw_only=True):
    url: str
    label: str = msgspec.field(name=_CLASS)
    licence: str | None = None
    license: str | None = None
    page: str | None = None


def _read_jsonl(path: Path) -> Iterator[Entry]:
    with open_input(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                found = from_json(line, _Line)
            except msgspec.ValidationError as error:
                raise DataError(f"{path}: line {number:,}: {invalid_value_words(error)}") from error
            except msgspec.DecodeError as error:
                raise DataError(f"{path}: line {number:,} is not JSON: {error}") from error
            licence = found.licence or found.license
            cells = {_URL: found.url, _CLASS: found.label, _LICENCE: licence, _PAGE: found.page}
            yield _entry(path, number, cells)


def _read_parquet(path: Path) -> Iterator[Entry]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with open_input(path) as file, ParquetFile(file) as table:
            columns = _columns(path, table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches():
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield _entry(path, number, dict(zip(columns, values, strict=True)))
    except ArrowException as error:
        raise DataError(f"{path}: cannot be read as parquet: {error}") from error


def _columns(path: Path, names: Sequence[str]) -> list[str]:
    """Return the columns as this module spells them; raises DataError if a needed one is missing, or one is double."""
    columns = [_SPELLINGS.get(name.strip().lower(), name.strip().lower()) for name in names]
    for wanted in (_URL, _CLASS):
        if wanted not in columns:
            raise DataError(f"{path}: has no column {wanted!r}; its columns are {', '.join(names) or 'none'}")
    for name in (_URL, _CLASS, _LICENCE, _PAGE):
        if columns.count(name) > 1:
            raise DataError(f"{path}: has {columns.count(name)} columns {name!r}")
    return columns


def _entry(path: Path, number: int, cells: Mapping[str, object]) -> Entry:
    values = {}
    for name in (_URL, _CLASS, _LICENCE, _PAGE):
        value = cells.get(name)
        if value is not None and not isinstance(value, str):
            raise DataError(f"{path}: line {number:,}: {name} must be a text, got {value!r}")
        values[name] = value or ""
    url = values[_URL].strip()
    for name, text in ((_URL, url), (_CLASS, values[_CLASS])):
        if not text:
            raise DataError(f"{path}: line {number:,}: has no {name}")
    return Entry(url=url, label=values[_CLASS], licence=values[_LICENCE], page=values[_PAGE])


def _read_pages(folder: Path) -> Iterator[Entry]:
    for page, label in pages_in(folder):
        yield from _read_page(page, label)


def _read_page(page: Path, label: str | None = None) -> Iterator[Entry]:
    address, urls = images_in(page)
    for url in urls:
        yield Entry(
            url=url,
            label=page.stem if label is None else label,
            page=Input(name=str(page)).text if address is None else address,
        )


_READERS: Mapping[str, Callable[[Path], Iterator[Entry]]] = MappingProxyType(
    {
        ".csv": _read_csv,
        ".tsv": _read_tsv,
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".parquet": _read_parquet,
        ".html": _read_page,
        ".htm": _read_page,
    }
)
