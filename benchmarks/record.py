"""Write a benchmark's results to a JSON file, and print them."""

from pathlib import Path

import msgspec


def record(out: Path, result: dict[str, object]) -> None:
    print(write(out, result), end="")


def write(out: Path, result: dict[str, object]) -> str:
    """Write the file and return its text."""
    text = f"{msgspec.json.format(msgspec.json.encode(result)).decode()}\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    return text
