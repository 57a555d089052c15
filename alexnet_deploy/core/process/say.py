"""Progress messages: functions receive a callback that takes one line."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeAlias

Say: TypeAlias = Callable[[str], None]
"""Callback for one line of progress."""


_MOST_NAMED = 10


def lines_about_excluded(excluded: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a line for each of the first ten skipped images, pairs of name and error code, then one for the rest.

    The full list is in the weights, the packed set or the calibration record.
    """
    remaining = iter(excluded)
    for name, code in islice(remaining, _MOST_NAMED):
        yield f"skipped, {code}: {name}"
    if counts := Counter(code for _, code in remaining):
        reasons = ", ".join(f"{code} {count:,}" for code, count in counts.most_common())
        yield f"skipped: {counts.total():,} more ({reasons})"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, as `1 image` or `1,024 images`; `plural` defaults to the noun plus s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def printable(text: str) -> str:
    r"""Return text as one line without terminal control: line breaks, ESC, C1 and bidi controls are escaped.

    Every character that str.isprintable refuses is escaped: `\x1b`, `\u202e`. Bytes that are not UTF-8 become `\xNN`.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def printable_lines(text: str) -> str:
    """Return text with each line made printable."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _escaped(char: str) -> str:
    is_byte = "\udc80" <= char <= "\udcff"
    return f"\\x{ord(char) - 0xDC00:02x}" if is_byte else repr(char)[1:-1]


def say_nothing(line: str) -> None:
    """Discard the line."""
