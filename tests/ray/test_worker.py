import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Run

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import IntegrityError, UsageError
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.core.process.say import say_nothing
from alexnet_deploy.predict.predictor import LoadOptions
from alexnet_deploy.predict.shards.inputs import Shard
from alexnet_deploy.predict.shards.record import RowForm
from alexnet_deploy.ray.job import Job, Settings, open_job
from alexnet_deploy.ray.worker import Worker


def settings(bundle: Bundle, sha256: str | None = None) -> Settings:
    return Settings(
        bundle=bundle.path,
        bundle_sha256=sha256 or bundle.sha256,
        options=LoadOptions(backend="openvino", threads=1),
        form=RowForm(row_format="csv", topk=2, reject=0.5),
        limits=DEFAULT_LIMITS,
        batch_size=3,
        retries=3,
    )


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """A working directory; a worker changes it, and the tests change it back."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def job_in(folder: Path, bundle: Bundle, names: list[str], sha256: str | None = None) -> Job:
    inputs = (Input(name=name) for name in names)
    with open_job(folder / "rows.csv", settings(bundle, sha256), inputs, resume=False, say=say_nothing) as job:
        return job


def test_a_worker_writes_what_predict_writes_for_the_shard(bundle: Bundle, images: Path, here: Path, run: Run) -> None:
    names = [*(f"{images}/{letter}.jpg" for letter in "abcdefg"), "nowhere.jpg"]
    worker = Worker(job := job_in(here, bundle, names))
    greeting = worker.open()
    assert greeting.origin.bundle_sha256 == bundle.sha256
    assert greeting.engine.startswith("openvino")
    shard = Shard(number=1, count=1)
    worker.predict(shard)
    assert job.record(shard) is not None
    options = ("--topk", 2, "--reject", 0.5, "--backend", "openvino", "--threads", 1)
    run("predict", *names, "--bundle", bundle.path, *options, "--shard", "1/1", "--output", "one.csv")
    assert job.place(shard).read_bytes() == Path("one.csv").read_bytes()
    written, wanted = (Path(f"{place}.shard.json").read_bytes() for place in (job.place(shard), "one.csv"))
    assert written == wanted


def test_names_are_relative_to_the_directory_of_the_command(bundle: Bundle, images: Path, here: Path) -> None:
    os.chdir(images)
    job = job_in(here, bundle, ["a.jpg"])
    os.chdir(here)
    worker = Worker(job)
    worker.open()
    worker.predict(shard := Shard(number=1, count=1))
    assert b"a.jpg,true" in job.place(shard).read_bytes()


def test_a_machine_without_the_directory_says_so(bundle: Bundle, here: Path) -> None:
    (here / "gone").mkdir()
    os.chdir(here / "gone")
    job = job_in(here, bundle, ["a.jpg"])
    (here / "gone").rmdir()
    with pytest.raises(
        UsageError, match=r"gone: No such file or directory on .+; --ray needs the same folders on every"
    ):
        Worker(job).open()


def test_a_machine_with_another_bundle_of_that_name_says_so(bundle: Bundle, here: Path) -> None:
    with pytest.raises(IntegrityError, match="another bundle has taken its place"):
        Worker(job_in(here, bundle, ["a.jpg"], sha256="0" * 64)).open()


def test_a_shard_that_another_worker_has_just_completed_stays(bundle: Bundle, images: Path, here: Path) -> None:
    worker = Worker(job := job_in(here, bundle, [f"{images}/a.jpg"]))
    worker.open()
    shard = Shard(number=1, count=1)
    worker.predict(shard)
    before = job.place(shard).read_bytes()
    worker.predict(shard)
    assert job.place(shard).read_bytes() == before
    # Without its record, it is a file of another program.
    Path(f"{job.place(shard)}.shard.json").unlink()
    with pytest.raises(UsageError, match="already exists"):
        worker.predict(shard)
