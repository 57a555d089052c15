"""How a function tells what it is doing: it is given something that takes one line."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeAlias

Say: TypeAlias = Callable[[str], None]
"""Takes one line about what is being done."""


_MOST_NAMED = 10


def lines_about_excluded(excluded: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a line for each image that is left out, pairs of name and error code: the first ten, then one for the rest.

    The weights, the packed set or the calibration's record hold all of them.
    """
    remaining = iter(excluded)
    for name, code in islice(remaining, _MOST_NAMED):
        yield f"left out, {code}: {name}"
    if counts := Counter(code for _, code in remaining):
        reasons = ", ".join(f"{code} {count:,}" for code, count in counts.most_common())
        yield f"left out: {counts.total():,} more ({reasons})"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return 1 image or 1,024 images; `plural` is the noun with an s unless given."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def printable(text: str) -> str:
    r"""Return text as one line that cannot steer a terminal: line breaks, ESC, C1, bidi controls and the like escaped.

    What is escaped is what str.isprintable refuses: `\x1b`, `\u202e`. Bytes of a name that are no UTF-8 are `\xNN`.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def printable_lines(text: str) -> str:
    """Return text whose every line is printable."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _escaped(char: str) -> str:
    is_byte = "\udc80" <= char <= "\udcff"
    return f"\\x{ord(char) - 0xDC00:02x}" if is_byte else repr(char)[1:-1]


def say_nothing(line: str) -> None:
    """Take a line and leave it."""
