"""Put the results of studies in one file.

    python -m benchmarks.training.studies --studies OUT... --out RESULT.json

The studies were run by `alexnet-deploy study`; docs/studies.md has the commands.
"""

import argparse
import csv
from pathlib import Path

import msgspec

from alexnet_deploy.core.process.machine import processor
from benchmarks.record import record


def result_of(out: Path) -> dict[str, object]:
    """Return study.json, with the minutes of each run from times.csv."""
    found: dict[str, object] = msgspec.json.decode((out / "study.json").read_bytes())
    with (out / "times.csv").open(newline="") as file:
        minutes = [float(row["seconds"]) / 60 for row in csv.DictReader(file)]
    return found | {"minutes_of_all_runs": round(sum(minutes), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    studies = [result_of(out) for out in options.studies]
    record(options.out, {"machine": processor(), "note": options.note, "studies": studies})


if __name__ == "__main__":
    main()
