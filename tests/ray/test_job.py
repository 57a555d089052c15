import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.core.errors import BackendError, ImageErrorCode, OutputError, UsageError
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS, DecodeLimits
from alexnet_deploy.core.inputs.archives import Section
from alexnet_deploy.core.inputs.item import Input, StoredFile
from alexnet_deploy.core.inputs.remote.reading import RemoteFile, RemoteSection
from alexnet_deploy.core.process.say import say_nothing
from alexnet_deploy.predict.predictor import LoadOptions
from alexnet_deploy.predict.shards.inputs import Shard, ShardInputs
from alexnet_deploy.predict.shards.record import RowForm
from alexnet_deploy.ray import job as job_module
from alexnet_deploy.ray.job import (
    MOST_SHARDS,
    ROWS_PER_SHARD,
    Job,
    Settings,
    folder_beside,
    open_job,
    refuse_interrupted,
    remove_job,
)

SETTINGS = Settings(
    bundle=Path("/some.bundle"),
    bundle_sha256="0" * 64,
    options=LoadOptions(),
    form=RowForm(row_format="jsonl", topk=5, reject=None),
    limits=DEFAULT_LIMITS,
    batch_size=None,
    retries=3,
)

# Names as the system gives them: bytes that are not UTF-8 are halves of surrogate pairs, and lists may hold anything.
NAMES = st.binary(max_size=8).map(os.fsdecode)
INPUTS = st.builds(
    Input, name=NAMES, error=st.one_of(st.none(), st.tuples(st.sampled_from(ImageErrorCode), st.text(max_size=8)))
)


def opened(output: Path, inputs: list[Input], *, resume: bool = False, settings: Settings = SETTINGS) -> Job:
    with open_job(output, settings, iter(inputs), resume=resume, say=say_nothing) as job:
        return job


def read(job: Job) -> list[Input]:
    """What the workers read, in the order of all inputs."""
    parts = [list(job.inputs(shard)) for shard in job.shards]
    assert [len(part) for part in parts] == [shard.num_rows(job.num_inputs) for shard in job.shards]
    return [parts[number % len(parts)][number // len(parts)] for number in range(job.num_inputs)]


def named(*names: str) -> list[Input]:
    return [Input(name=name) for name in names]


def interrupted(output: Path, inputs: list[Input]) -> None:
    """Leave a job with some rows."""
    job = opened(output, inputs)
    (job.folder / ".rows-1-of-1.jsonl.0123456789ab.partial").write_text("a row\n")


@given(inputs=st.lists(st.one_of(st.none(), INPUTS), max_size=9))
def test_workers_read_the_inputs_that_the_command_found(
    inputs: list[Input | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = tmp_path_factory.mktemp("job") / "rows.jsonl"
    with open_job(output, SETTINGS, iter(inputs), resume=False, say=say_nothing) as job:
        found = [item for item in inputs if item is not None]
        assert read(job) == found
        assert job.num_inputs == len(found)
        alone = ShardInputs(Shard(number=1, count=1), iter(found))
        list(alone)
        assert job.inputs_sha256 == alone.sha256


@pytest.mark.parametrize(
    ("num_inputs", "num_shards"),
    [
        (0, 1),
        (1, 1),
        (ROWS_PER_SHARD, 1),
        (ROWS_PER_SHARD + 1, 2),
        (ROWS_PER_SHARD * MOST_SHARDS + 1, MOST_SHARDS),
        (10**10, MOST_SHARDS),
    ],
)
def test_the_number_of_shards_follows_from_the_number_of_inputs(num_inputs: int, num_shards: int) -> None:
    job = Job(settings=SETTINGS, folder=Path(), directory=Path(), num_inputs=num_inputs, inputs_sha256="")
    shards = job.shards
    assert len(shards) == num_shards
    assert sum(shard.num_rows(num_inputs) for shard in shards) == num_inputs
    assert len({job.place(shard) for shard in shards}) == num_shards


def test_rows_of_an_interrupted_job_are_neither_replaced_nor_forgotten(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    interrupted(output, named("a.jpg", "b.jpg"))
    with pytest.raises(UsageError, match=r"holds the rows of an interrupted run; pass --resume to continue it"):
        opened(output, named("a.jpg", "b.jpg"))
    job = opened(output, named("a.jpg", "b.jpg"), resume=True)
    assert any(job.folder.glob(".rows-1-of-1*"))


def test_every_shard_has_the_inputs_of_its_own(tmp_path: Path) -> None:
    given = named(*(f"{number}.jpg" for number in range(2 * ROWS_PER_SHARD + 5)))
    job = opened(tmp_path / "rows.jsonl", given)
    assert len(job.shards) == 3
    assert read(job) == given
    assert next(iter(job.inputs(Shard(number=2, count=3)))).name == "1.jpg"


def test_a_job_without_rows_starts_again_with_other_inputs(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    opened(output, named("a.jpg"))
    assert read(opened(output, named("b.jpg", "c.jpg"))) == named("b.jpg", "c.jpg")


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        (["a.jpg", "aa.jpg", "b.jpg"], "input 2 is now aa.jpg, but in the interrupted run it was b.jpg"),
        (["a.jpg"], "there are no more inputs, but in the interrupted run it was b.jpg"),
        (["a.jpg", "b.jpg", "c.jpg"], "input 3 is now c.jpg, but in the interrupted run there was none"),
    ],
)
def test_other_inputs_cannot_continue_a_job(now: list[str], sentence: str, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    interrupted(output, named("a.jpg", "b.jpg"))
    with pytest.raises(UsageError, match=f"cannot resume: {sentence}"):
        opened(output, named(*now), resume=True)
    # What was there is as it was.
    assert read(opened(output, named("a.jpg", "b.jpg"), resume=True)) == named("a.jpg", "b.jpg")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"bundle_sha256": "1" * 64}, "another bundle: 0{64}, now 1{64}; repeat its options, or remove the folder"),
        ({"form": RowForm(row_format="jsonl", topk=3, reject=None)}, "another --topk: 5, now 3"),
        ({"form": RowForm(row_format="jsonl", topk=5, reject=0.5)}, r"another --reject: None, now 0\.5"),
        ({"form": RowForm(row_format="csv", topk=5, reject=None)}, "another --format: jsonl, now csv"),
        ({"limits": DecodeLimits(max_pixels=9)}, "another limit on images: .*max_pixels=9"),
    ],
)
def test_other_settings_cannot_continue_a_job(changed: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    interrupted(output, named("a.jpg"))
    with pytest.raises(UsageError, match=f"cannot resume: the interrupted run had {sentence}"):
        opened(output, named("a.jpg"), resume=True, settings=replace(SETTINGS, **changed))
    others = replace(SETTINGS, bundle=Path("/moved.bundle"), retries=9, batch_size=2)
    assert opened(output, named("a.jpg"), resume=True, settings=others).has_rows()


def test_rows_of_a_run_without_ray_are_not_forgotten(tmp_path: Path) -> None:
    rows = tmp_path / ".rows.jsonl.0123456789ab.partial"
    rows.write_text("a row\n")
    with pytest.raises(UsageError, match=r"partial: holds the rows of a run without --ray; continue it without --ray"):
        opened(tmp_path / "rows.jsonl", named("a.jpg"), resume=True)
    assert list(tmp_path.iterdir()) == [rows]


def test_a_run_without_ray_does_not_forget_a_job(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    refuse_interrupted(output)
    interrupted(output, named("a.jpg"))
    with pytest.raises(UsageError, match=r"holds the rows of an interrupted run with --ray; repeat the command with"):
        refuse_interrupted(output)


def test_a_job_that_fails_before_its_first_row_leaves_nothing(tmp_path: Path) -> None:
    def none() -> Iterator[Input]:
        raise UsageError("photos: no files found")
        yield

    with pytest.raises(UsageError), open_job(tmp_path / "a.csv", SETTINGS, none(), resume=False, say=say_nothing):
        raise AssertionError
    with (
        pytest.raises(BackendError),
        open_job(tmp_path / "a.csv", SETTINGS, iter(named("a.jpg")), resume=False, say=say_nothing),
    ):
        raise BackendError("cannot connect")
    assert not list(tmp_path.iterdir())


def test_images_that_another_machine_cannot_find_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"#0: --ray takes files, not images in memory"):
        opened(tmp_path / "rows.jsonl", [Input(name="#0", held=b"an image")])


def test_passwords_are_not_written_to_the_list(tmp_path: Path) -> None:
    secret = RemoteFile(url="https://me:secret@host/a.jpg")
    with pytest.raises(UsageError, match=r"https://me:\*\*\*@host/a.jpg: --ray would write the password"):
        opened(tmp_path / "rows.jsonl", [Input(name="https://me:***@host/a.jpg", file=secret)])
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


def test_workers_find_files_in_archives_and_on_servers(tmp_path: Path) -> None:
    remote = RemoteFile(url="s3://bucket/a.tar", path="bucket/a.tar", num_bytes=10)
    files: list[StoredFile] = [
        Section(path=tmp_path / "a.tar", offset=512, num_bytes=7),
        remote,
        RemoteSection(archive=remote, offset=512, num_bytes=7),
    ]
    fetched = RemoteSection(archive=remote, offset=1024, num_bytes=2, data=b"xy")
    given = [Input(name=f"{number}", file=file) for number, file in enumerate([*files, fetched])]
    with open_job(tmp_path / "rows.jsonl", SETTINGS, iter(given), resume=False, say=say_nothing) as job:
        found = [item.file for item in read(job)]
    # The bytes are read again where they are needed.
    assert found == [*files, RemoteSection(archive=remote, offset=1024, num_bytes=2)]


def test_two_runs_do_not_share_a_job(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    with (
        open_job(output, SETTINGS, iter(named("a.jpg")), resume=False, say=say_nothing),
        pytest.raises(UsageError, match="another run is writing it"),
    ):
        opened(output, named("a.jpg"))


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    output, other = tmp_path / "rows.jsonl", tmp_path / "other"
    other.mkdir()
    folder_beside(output).symlink_to(other)
    with pytest.raises(OutputError, match=r"\.rows\.jsonl\.ray: cannot be written"):
        opened(output, named("a.jpg"))
    assert not list(other.iterdir())


def test_the_folder_is_removed_once(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    remove_job(output)
    interrupted(output, named("a.jpg"))
    remove_job(output)
    assert not list(tmp_path.iterdir())


def test_a_removal_that_was_killed_leaves_no_job_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "rows.jsonl"
    interrupted(output, named("a.jpg"))

    def killed(folder: Path, **_: object) -> None:
        for path in list(folder.glob("inputs*")):
            path.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(job_module.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_job(output)
    assert read(opened(output, named("b.jpg"), resume=True)) == named("b.jpg")
    remove_job(output)
    assert not list(tmp_path.iterdir())


def test_a_listing_that_fails_leaves_the_interrupted_job(tmp_path: Path) -> None:
    def failing() -> Iterator[Input]:
        yield Input(name="a.jpg")
        raise UsageError("line 2 of the list contains NUL")

    output = tmp_path / "rows.jsonl"
    interrupted(output, named("a.jpg", "b.jpg"))
    with (
        pytest.raises(UsageError, match="line 2"),
        open_job(output, SETTINGS, failing(), resume=True, say=say_nothing),
    ):
        raise AssertionError
    assert opened(output, named("a.jpg", "b.jpg"), resume=True).num_inputs == 2
