"""Patterns of file names: `*`, `?` and `[...]` within a name, `**` for any number of folders."""

import fnmatch


def with_ending_in_any_case(pattern: str) -> str:
    """Return *.jpg as *.[jJ][pP][gG]: an ending stands for a format, and cameras write .JPG."""
    stem, dot, ending = pattern.rpartition(".")
    if not dot or not ending.isalnum():
        return pattern
    both = (f"[{char.lower()}{char.upper()}]" if char.isascii() and char.isalpha() else char for char in ending)
    return f"{stem}.{''.join(both)}"


def fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Return whether the parts of a path match those of a pattern."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(fits(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and fits(parts[1:], pattern[1:])
