"""Write a benchmark's results to a JSON file and print them."""

from pathlib import Path

import msgspec


def record(out: Path, result: dict[str, object]) -> None:
    text = msgspec.json.format(msgspec.json.encode(result)).decode()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(f"{text}\n")
    print(text)
