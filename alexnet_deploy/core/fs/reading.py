"""JSON and TOML texts.

The parsers take texts that may be damaged or hostile: each raises a single type of exception for all errors.
"""

import json
import tomllib
from typing import TypeVar

import msgspec

T = TypeVar("T")


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
