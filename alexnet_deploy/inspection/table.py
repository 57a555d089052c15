"""Tables of text for a terminal: aligned columns, of which the least important are dropped where there is no room."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec import UnsetType

from alexnet_deploy.core.process.say import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column."""

    name: str
    """Its heading."""
    cells: tuple[str, ...]
    """One for each row, printable."""
    is_numeric: bool
    """Whether it is aligned to the right."""

    @property
    def width(self) -> int:
        """Number of characters of its longest cell."""
        return max(len(cell) for cell in (self.name, *self.cells))

    def aligned(self) -> list[str]:
        """Return the heading and the cells, all of the same width."""
        return [
            cell.rjust(self.width) if self.is_numeric else cell.ljust(self.width) for cell in (self.name, *self.cells)
        ]


def words(name: str, cells: Iterable[str]) -> Column:
    """Return a column of words, aligned to the left."""
    return Column(name=name, cells=tuple(printable(cell) for cell in cells), is_numeric=False)


def numbers(name: str, cells: Iterable[str]) -> Column:
    """Return a column of numbers, aligned to the right."""
    return Column(name=name, cells=tuple(printable(cell) for cell in cells), is_numeric=True)


def or_dash(value: float | UnsetType | None, form: str) -> str:
    """Return a formatted number, or a dash for None and for an unset field."""
    return "-" if value is None or isinstance(value, UnsetType) else format(value, form)


def text_table(
    columns: Sequence[Column], verdicts: Sequence[str], *, width: int | None, least_important: Sequence[str]
) -> str:
    """Return a table of the columns, each row followed by its verdict.

    With a `width` in characters, the columns in `least_important` are dropped, the first of them first, until a row
    that ends in `passed` fits; a longer verdict may still be too long.
    """
    kept = list(columns)
    for name in least_important:
        if width is None or sum(column.width + 2 for column in kept) + len("passed") <= width:
            break
        kept = [column for column in kept if column.name != name]
    lines = zip(*(column.aligned() for column in kept), strict=True)
    return "\n".join("  ".join([*cells, end]).rstrip() for cells, end in zip(lines, ["", *verdicts], strict=True))
