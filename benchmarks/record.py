"""What the benchmarks leave: one JSON file of results, which is shown too."""

from pathlib import Path

import msgspec


def record(out: Path, result: dict[str, object]) -> None:
    text = msgspec.json.format(msgspec.json.encode(result)).decode()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(f"{text}\n")
    print(text)
