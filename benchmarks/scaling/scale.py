"""Many rows through shards and merge: CPU time, memory and bytes, without decoding and without a network.

    python -m benchmarks.scaling.scale --rows 100000000 --out RESULT.json

A stand-in for the engine names a class for each input; all else is what `predict --shard` and `merge` run. At the end
the merged bytes are compared with the rows of one run, by their SHA-256.
"""

import argparse
import hashlib
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from alexnet_deploy.core.fs.files import sha256_of_file
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.engines.engine import EngineInfo
from alexnet_deploy.predict.output import writing_whole
from alexnet_deploy.predict.prediction import Guess, Prediction
from alexnet_deploy.predict.shards.inputs import Shard, ShardInputs
from alexnet_deploy.predict.shards.merging import merge_rows, read_shards
from alexnet_deploy.predict.shards.record import RowForm
from alexnet_deploy.predict.shards.run import predict_shard
from alexnet_deploy.predict.shards.sidecar import ShardRun
from benchmarks.record import record

LABELS = ("container ship", "hot-air balloon", "mountain bike", "umbrella")
FORM = RowForm(row_format="jsonl", topk=1, reject=None)
INFO = EngineInfo(
    backend="onnxruntime",
    version="0",
    device="cpu",
    precision="fp32",
    arithmetic="float32",
    num_threads=1,
    num_streams=1,
    batch_size=1,
    bundle_sha256="0" * 64,
)
TOPS = [(Guess(index=index, label=label, probability=0.91),) for index, label in enumerate(LABELS)]


def names(num_rows: int) -> Iterator[Input]:
    """All inputs."""
    return (Input(name=f"images/{number:011d}.jpg") for number in range(num_rows))


def predicted(inputs: Iterable[Input | None]) -> Generator[Prediction]:
    """A prediction for each input, from its name alone."""
    for item in inputs:
        if item is not None:
            yield Prediction(path=item.name, top=TOPS[ord(item.name[-5]) % 4], error=None, message="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What a process used."""

    cpu_s: float
    peak_mib: float


def used() -> Used:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return Used(cpu_s=spent.ru_utime + spent.ru_stime, peak_mib=spent.ru_maxrss / 1024)


def write_shard(folder: Path, shard: Shard, num_rows: int) -> Used:
    stand_in = SimpleNamespace(
        bundle=SimpleNamespace(labels=LABELS),
        engine=SimpleNamespace(info=INFO),
        limits=DEFAULT_LIMITS,
        stream=lambda inputs, batch_size: predicted(inputs),
    )
    run = ShardRun(
        output=folder / f"rows-{shard.number}.jsonl",
        inputs=ShardInputs(shard, names(num_rows)),
        form=FORM,
        bundle_sha256="0" * 64,
    )
    predict_shard(run, stand_in)  # type: ignore[arg-type]
    return used()


def merge(folder: Path, places: list[Path]) -> Used:
    with writing_whole(folder / "rows.jsonl") as put:
        merge_rows(read_shards(places), put, lambda done, total: None)
    return used()


def digest_of_one_run(num_rows: int) -> str:
    """The SHA-256 of what a single run writes."""
    writer, digest = FORM.writer(LABELS), hashlib.sha256()
    for prediction in predicted(names(num_rows)):
        digest.update(writer.row(prediction).encode())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    shards = [Shard(number=number, count=options.shards) for number in range(1, options.shards + 1)]
    with tempfile.TemporaryDirectory(dir=options.out.parent) as place:
        folder, start = Path(place), time.perf_counter()
        # A new process for each shard, so that its peak is its own.
        with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
            by_shard = pool.starmap(write_shard, [(folder, shard, options.rows) for shard in shards], chunksize=1)
            print(f"shards: {time.perf_counter() - start:.0f} s", file=sys.stderr)
            expected = pool.apply_async(digest_of_one_run, (options.rows,))
            merging = pool.apply(merge, (folder, [folder / f"rows-{shard.number}.jsonl" for shard in shards]))
            print(f"merge: {time.perf_counter() - start:.0f} s", file=sys.stderr)
            is_equal = sha256_of_file(folder / "rows.jsonl") == expected.get()
        num_bytes = (folder / "rows.jsonl").stat().st_size
    total = sum(one.cpu_s for one in by_shard)
    record(
        options.out,
        {
            "machine": processor(),
            "versions": tool_versions("numpy"),
            "rows": options.rows,
            "shards": options.shards,
            "bytes_per_row": num_bytes / options.rows,
            "equal_to_one_run": is_equal,
            "shards_cpu_us_per_row": 1e6 * total / options.rows,
            "merge_cpu_us_per_row": 1e6 * merging.cpu_s / options.rows,
            "shard_peak_mib": max(one.peak_mib for one in by_shard),
            "merge_peak_mib": merging.peak_mib,
            "wall_s": time.perf_counter() - start,
        },
    )
    sys.exit(not is_equal)


if __name__ == "__main__":
    main()
