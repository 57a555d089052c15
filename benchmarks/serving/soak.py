"""Memory of `serve` under load for a long time.

    python -m benchmarks.serving.soak BUNDLE IMAGES --minutes 30 --out RESULT.json

Clients post files to /classify, every tenth one a text that is no image. The server's resident memory is noted every 15
seconds; the line through the notes of the second half says how much it grows in an hour.
"""

import argparse
import asyncio
import itertools
import time
from pathlib import Path

import httpx
import numpy as np

from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from benchmarks.record import record
from benchmarks.serving.serve import URL, serving

EVERY_S = 15.0


def resident_mib(process: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{process}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


async def soak(process: int, files: list[bytes], clients: int, seconds: float) -> tuple[dict[int, int], list[float]]:
    """Return the number of answers by status, and the notes of memory."""
    end, numbers = time.monotonic() + seconds, itertools.count()
    statuses: dict[int, int] = {}
    notes: list[float] = []

    async def ask(client: httpx.AsyncClient) -> None:
        while time.monotonic() < end:
            number = next(numbers)
            body = b"no image" if number % 10 == 9 else files[number % len(files)]
            answer = await client.post(f"{URL}/v2/models/m/classify", content=body)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1

    async def note() -> None:
        while time.monotonic() < end:
            notes.append(resident_mib(process))
            await asyncio.sleep(EVERY_S)

    async with httpx.AsyncClient(timeout=120) as client:
        await asyncio.gather(note(), *(ask(client) for _ in range(clients)))
    return statuses, notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    files = [path.read_bytes() for path in sorted(options.images.iterdir())]
    with serving(options.bundle) as process:
        statuses, notes = asyncio.run(soak(process, files, options.clients, 60 * options.minutes))
    later = notes[len(notes) // 2 :]
    slope = float(np.polyfit(np.arange(len(later)), later, 1)[0]) * 3600 / EVERY_S
    record(
        options.out,
        {
            "machine": processor(),
            "versions": tool_versions("openvino", "starlette", "uvicorn"),
            "minutes": options.minutes,
            "clients": options.clients,
            "answers": {str(status): number for status, number in sorted(statuses.items())},
            "resident_mib": {"after_1_minute": notes[4], "half": later[0], "end": notes[-1], "largest": max(notes)},
            "growth_mib_per_hour_in_the_second_half": slope,
        },
    )


if __name__ == "__main__":
    main()
