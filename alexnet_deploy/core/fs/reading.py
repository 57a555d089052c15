"""JSON and TOML texts.

The parsers take texts that may be damaged or hostile: each raises a single type of exception for all errors.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.fs.opening import MIB, read_file

T = TypeVar("T")

_WRONG_TYPE = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<found>[^`]+)` - at `\$\.(?P<field>[^`]+)`")
_FIELD = re.compile(r"Object (?P<problem>missing required|contains unknown) field `(?P<field>[^`]+)`.*")
_KINDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
_PROBLEMS = {"missing required": "is missing", "contains unknown": "is not a known field"}


def from_json(data: bytes | str, kind: type[T]) -> T:
    """Return a JSON text as a record; raises msgspec.DecodeError for every kind of invalid text."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError:
        raise
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError("it holds bytes that are not UTF-8") from error
    except (ValueError, OverflowError) as error:
        # Integers with thousands of digits.
        raise msgspec.DecodeError(f"it holds a number that cannot be read: {error}") from error


def from_toml(text: str) -> dict[str, object]:
    """Return a TOML text as a table; raises tomllib.TOMLDecodeError for every kind of invalid text."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise tomllib.TOMLDecodeError("it is nested too deeply") from error
    except tomllib.TOMLDecodeError:
        raise
    except (ValueError, OverflowError) as error:
        raise tomllib.TOMLDecodeError(f"it holds a value that cannot be read: {error}") from error


def read_toml(path: Path) -> str:
    """Return the text of a TOML file, at most 1 MiB, unparsed; raises UsageError if it cannot be read."""
    try:
        return read_file(path, MIB).decode()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not valid TOML: {error}") from error


def invalid_value_words(error: msgspec.ValidationError) -> str:
    """Return an error of msgspec's as a sentence for whoever wrote the text: `patience must be an integer, got ...`."""
    if wrong := _WRONG_TYPE.fullmatch(str(error)):
        wanted = " or ".join(_KINDS.get(kind.strip(), kind.strip()) for kind in wrong["wanted"].split("|"))
        found = "a boolean" if wrong["found"] == "bool" else _KINDS.get(wrong["found"], wrong["found"])
        return f"{wrong['field']} must be {wanted}, got {found}"
    if field := _FIELD.fullmatch(str(error)):
        return f"{field['field']} {_PROBLEMS[field['problem']]}"
    return str(error).partition(" - at `$")[0]


def toml_value(value: object) -> str:
    """Return a Boolean, string, number or sequence of them as a TOML value."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value)
        case tuple() | list():
            return f"[{', '.join(map(toml_value, value))}]"
        case _:
            return repr(value)
