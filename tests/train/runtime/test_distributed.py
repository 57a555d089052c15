import pickle
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import msgspec
import numpy as np
import pytest
import ranks as rank_program
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import saved, separating_weights
from ranks import FIRST, RECIPES, TABLE, Seen, Told, terminated, torchrun, train
from training import BLUE, NARROW, RED, at_step, interrupt, memory_set, network_in, paint, record_of

from alexnet_deploy.core.errors import BackendError, TrainingError, UsageError
from alexnet_deploy.core.model.network import Network, tensors_of
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.core.model.weights import Weights, load_weights
from alexnet_deploy.train.data.loader import CopiedImages
from alexnet_deploy.train.data.scan import DecodedImages, Survey, find_images
from alexnet_deploy.train.learner.augment import (
    CropRange,
    Part,
    color_axes,
    color_shift,
    crop_and_mirror,
    erase,
    jitter_colors,
    scaled_crop_and_mirror,
    whole,
)
from alexnet_deploy.train.learner.init import initialise
from alexnet_deploy.train.learner.learner import Learner
from alexnet_deploy.train.loop.checkpoint import CHECKPOINT, load_checkpoint
from alexnet_deploy.train.loop.record import Observer, training_preprocessing
from alexnet_deploy.train.loop.run_directory import BEST, METRICS
from alexnet_deploy.train.pack.format import survey_of
from alexnet_deploy.train.pack.writer import pack
from alexnet_deploy.train.run import Resume, look_over
from alexnet_deploy.train.run import train as train_run
from alexnet_deploy.train.runtime.distributed import ALONE, Ranks, joined
from alexnet_deploy.train.runtime.placement import Placement

PROGRAM = Path(rank_program.__file__)

# Two processes add the same float32 numbers in a different order, so results are not bit-identical: losses, in which
# errors of 2^-24 average out, differ by a few of those; weights by up to 2^-24 of their value per step, while training
# changes them by about a thousandth. Measured: 5e-8 and 1.5e-5.
LOSS = 2e-6
# Relative to the change of the tensor in training.
MOVED = 2e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine training and three validation images: neither is a multiple of two, nor nine of four."""
    folder = tmp_path_factory.mktemp("ranks")
    root = paint(folder / "data", {"blue": (BLUE,), "red": (RED,)})
    (root / "train/red/4.png").unlink()
    (root / "val/red/1.png").unlink()
    return folder


@pytest.fixture(scope="module")
def survey(folder: Path) -> Survey:
    return look_over(folder / "data", SHORTER_SIDE)


@pytest.fixture(scope="module")
def told(folder: Path) -> list[Told]:
    """The output of each of two processes about its runs."""
    done = torchrun(PROGRAM, folder, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [msgspec.json.decode((folder / f"rank-{rank}.json").read_bytes(), type=Told) for rank in (0, 1)]


@pytest.fixture(scope="module")
def in_two(told: list[Told]) -> list[list[Seen]]:
    """The results of each of two processes, by recipe."""
    return [each.runs for each in told]


@pytest.fixture(scope="module")
def alone(folder: Path, survey: Survey) -> list[Seen]:
    """The results of a single process, by recipe."""
    return [train(survey, folder / f"one-{recipe.batch_size}", recipe, ALONE) for recipe in RECIPES]


def best_of(folder: Path, size: int) -> tuple[Weights, Weights]:
    one, two = (load_weights(folder / f"{how}-{size}" / BEST).weights for how in ("one", "two"))
    return one, two


# Two processes and one


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_two_processes_learn_what_one_does_at_the_same_batch(
    folder: Path, in_two: list[list[Seen]], alone: list[Seen], number: int
) -> None:
    size = RECIPES[number].batch_size
    # One loss per step, and the epoch's loss again at its end, the same in every process.
    assert len(alone[number].losses) == 2 * (-(-9 // size) + 1)
    for seen in in_two:
        np.testing.assert_allclose(seen[number].losses, alone[number].losses, rtol=LOSS)
    assert in_two[0][number].losses == in_two[1][number].losses
    for one, two in zip(*(record_of(weights).epochs for weights in best_of(folder, size)), strict=True):
        assert one.validation_loss == pytest.approx(two.validation_loss, rel=LOSS)
        assert (one.validation_top1, one.validation_top5) == (two.validation_top1, two.validation_top5)
    one, two = (network_in(folder / f"{how}-{size}") for how in ("one", "two"))
    first = Network(TABLE.with_num_classes(2))
    initialise(first, "kaiming", seed=0)
    for name, before in tensors_of(first).items():
        moved = np.abs(one.tensors[name] - before).max()
        assert moved > 0
        assert np.abs(two.tensors[name] - one.tensors[name]).max() <= MOVED * moved, name


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_every_image_is_seen_once_an_epoch_by_one_process_in_the_batch_where_one_alone_would_see_it(
    in_two: list[list[Seen]], alone: list[Seen], survey: Survey, number: int
) -> None:
    size = RECIPES[number].batch_size
    root = survey.folder.root
    learnt, validated = (
        sorted(str(example.path.relative_to(root)) for example in side)
        for side in (survey.folder.train, survey.folder.validation)
    )
    # Nine images in batches of 4: the third batch has no image for the second process.
    shares = {4: ((5, 2), (4, 1)), 3: ((6, 2), (3, 1))}[size]
    epochs = [[], []]
    for seen, (num_train, num_validation) in zip(in_two, shares, strict=True):
        assert len(seen[number].read) == 2 * (num_train + num_validation)
        for epoch in (0, 1):
            epochs[epoch].append(
                seen[number].read[epoch * (num_train + num_validation) :][: num_train + num_validation]
            )
    for epoch, (first, second) in enumerate(epochs):
        assert sorted(first + second) == sorted(learnt + validated)
        whole = alone[number].read[12 * epoch : 12 * epoch + 9]
        for begin in range(0, 9, size):
            batch = whole[begin : begin + size]
            assert [name for name in first if name in batch] == batch[::2]
            assert [name for name in second if name in batch] == batch[1::2]


def test_the_first_process_alone_writes_and_its_record_is_of_all_images(
    folder: Path, in_two: list[list[Seen]], alone: list[Seen]
) -> None:
    for size in (recipe.batch_size for recipe in RECIPES):
        assert sorted(path.name for path in (folder / f"two-{size}").iterdir()) == sorted([BEST, CHECKPOINT, METRICS])
        assert len((folder / f"two-{size}" / METRICS).read_bytes().splitlines()) == 2
        one, two = map(record_of, best_of(folder, size))
        assert (two.num_train, two.num_validation) == (9, 3)
        assert np.sum(two.confusion, axis=1).tolist() == [2, 1]
        assert (two.confusion, two.best_epoch) == (one.confusion, one.best_epoch)


def test_no_thread_of_the_others_group_outlives_it(told: list[Told]) -> None:
    # A remaining thread may ask for Python's lock after Python has ended, and aborts the process: one run in eight,
    # under load.
    for each in told:
        assert each.threads
        assert not [name for name in each.threads if "gloo" in name]


def test_an_error_in_one_process_ends_all(tmp_path: Path) -> None:
    root = paint(tmp_path / "data", {"blue": (BLUE,), "red": (RED,)})
    (root / "train/red/4.png").rename(root / "train/red/FAIL.png")
    for number in range(8):
        # Enough of them that the second process gets one in any order.
        (root / f"train/red/{number}").mkdir()
        (root / f"train/red/{number}/FAIL.png").write_bytes((root / "train/red/FAIL.png").read_bytes())
    done = torchrun(PROGRAM, tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert "DataError: FAIL.png fails in the second process" in done.stderr
    assert not list(tmp_path.glob("rank-*.json"))


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_process_that_is_not_the_first_writes_nothing(survey: Survey, tmp_path: Path, is_interrupted: bool) -> None:
    act = at_step(2, interrupt) if is_interrupted else lambda progress: None
    with pytest.raises(KeyboardInterrupt) if is_interrupted else nullcontext():
        # The second of one process: there is no process to wait for.
        train_run(
            survey,
            TABLE,
            FIRST,
            tmp_path / "run",
            placement=Placement(ranks=Ranks(rank=1, size=1)),
            observer=Observer(on_progress=act),
        )
    assert list(tmp_path.iterdir()) == []


# Interrupting and resuming


def test_all_stop_where_one_is_asked_to_and_go_on_to_the_bits_of_a_run_that_was_not_stopped(
    folder: Path, told: list[Told], survey: Survey
) -> None:
    done = torchrun(PROGRAM, folder, "stop", cwd=folder)
    assert done.returncode == 1
    assert "exitcode  : 143" in done.stderr
    saved = load_checkpoint(folder / "stopped" / CHECKPOINT)
    assert (saved.position.epoch, saved.position.step, saved.machine.processes) == (2, 1, 2)
    stopped = [msgspec.json.decode((folder / f"stopped-{rank}.json").read_bytes(), type=Told) for rank in (0, 1)]
    for each in stopped:
        assert each.threads
        assert not [name for name in each.threads if "gloo" in name]
    with pytest.raises(
        UsageError, match=r"with processes 2 and now has processes 1: .* --any-machine to resume anyway$"
    ):
        train_run(survey, TABLE, FIRST, folder / "stopped", resume=Resume.SAME_MACHINE)
    done = torchrun(PROGRAM, folder, "resume", cwd=folder)
    assert done.returncode == 0, done.stderr
    resumed, whole = (load_checkpoint(folder / name / CHECKPOINT) for name in ("stopped", "two-4"))
    assert resumed.tensors_sha256 == whole.tensors_sha256
    for one, other in zip(resumed.position.epochs, whole.position.epochs, strict=True):
        assert msgspec.structs.replace(one, images_per_second=1.0) == msgspec.structs.replace(
            other, images_per_second=1.0
        )


# The command


def test_the_command_trains_in_two_processes_and_speaks_once(folder: Path, tmp_path: Path) -> None:
    arguments = ("train", folder / "data", "--arch", "tiny", "--epochs", "1", "--batch-size", "5", "--device", "cpu")
    done = torchrun("-m", "alexnet_deploy", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = done.stdout.splitlines()
    record = record_of(load_weights(tmp_path / path).weights)
    assert (record.num_train, len(record.epochs)) == (9, 1)
    said = Counter(done.stderr.splitlines())
    assert said["training tiny on cpu, recipe folder, 1 epoch, 2 processes"] == 1
    assert said["next: alexnet-deploy export"] == 1
    report = Path(path).with_name("report.html")
    assert said[f"training report: {report}"] == 1
    assert (tmp_path / report).is_file()
    assert [name.name for name in (tmp_path / "runs").iterdir() if name.name != "latest"] == [Path(path).parent.name]


def test_two_processes_start_from_weights_and_freeze_layers(folder: Path, tmp_path: Path) -> None:
    base = saved(separating_weights(TABLE), tmp_path / "base.safetensors").weights
    options = ("--from", "base.safetensors", "--freeze", "conv1..conv2", "--epochs", "2", "--batch-size", "5")
    arguments = ("train", folder / "data", *options, "--device", "cpu", "--out", "run")
    done = torchrun("-m", "alexnet_deploy", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Counter(done.stderr.splitlines())["fc8 is new: the images have other classes than base.safetensors"] == 1
    tuned = load_weights(tmp_path / "run" / BEST).weights
    for name in set(base.tensors) - {"fc8.weight", "fc8.bias"}:
        is_equal = tuned.tensors[name].tobytes() == base.tensors[name].tobytes()
        assert is_equal is (name.split(".")[0] in ("conv1", "conv2")), name


def test_torchrun_that_is_ended_lets_the_command_save(folder: Path, tmp_path: Path) -> None:
    arguments = ("train", folder / "data", "--arch", "tiny", "--epochs", "999", "--batch-size", "5", "--device", "cpu")
    run = tmp_path / "run"
    done = terminated(
        *("-m", "alexnet_deploy", *arguments, "--out", run),
        cwd=tmp_path,
        when=(run / METRICS).exists,
    )
    assert done.returncode != 0
    assert done.stderr.count(f"interrupted; resume with `alexnet-deploy train --resume --out {run}`") == 1
    assert load_checkpoint(run / CHECKPOINT).position.epoch > 1
    assert not (run / ".lock").exists()
    assert not (run / "report.html").exists()


def test_what_the_first_process_refuses_ends_the_others(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    done = torchrun("-m", "alexnet_deploy", "train", folder / "data", "--out", "taken", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "error: taken: already exists; choose another --out, or resume it with --resume\n" in done.stderr
    assert list((tmp_path / "taken").iterdir()) == []


# Shares


@given(num_images=st.integers(0, 40), size=st.integers(1, 9))
def test_shares_are_even_and_each_image_is_in_one(num_images: int, size: int) -> None:
    batch = torch.arange(100, 100 + num_images)
    shares = [Ranks(rank=rank, size=size).shard(batch) for rank in range(size)]
    assert sorted(number for share in shares for number in share.tolist()) == batch.tolist()
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


LIMITS = CropRange(min_area=0.3, max_aspect=1.5, max_rotation=20.0)
AUGMENTATIONS: dict[str, Callable[[torch.Tensor, torch.Generator, Part], torch.Tensor]] = {
    "crops": lambda images, draws, part: crop_and_mirror(images, 227, draws, part).float(),
    "scaled crops": lambda images, draws, part: scaled_crop_and_mirror(images, 227, LIMITS, draws, part),
    "noise": lambda images, draws, part: color_shift(color_axes(np.diag([9.0, 4.0, 1.0])), 0.1, draws, part),
    "jitter": lambda images, draws, part: jitter_colors(images.float(), (1.0, 2.0, 3.0), 0.3, draws, part),
    "random_erasing": lambda images, draws, part: erase(images.permute(0, 3, 1, 2).float(), 0.5, draws, part),
}


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("num_images", [1, 5, 6])
def test_a_part_of_a_batch_looks_as_in_the_whole(num_images: int, augmentation: str) -> None:
    images = torch.randint(0, 256, (num_images, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator())
    augmented = AUGMENTATIONS[augmentation]
    everything = augmented(images, torch.Generator().manual_seed(1), whole(num_images))
    for rank in range(2):
        part = Ranks(rank=rank, size=2).part(num_images)
        mine = augmented(images[part.rows], torch.Generator().manual_seed(1), part)
        torch.testing.assert_close(mine, everything[part.rows], rtol=0, atol=1e-3)


def test_a_process_may_have_no_image_of_a_batch(survey: Survey) -> None:
    numbers = [torch.tensor([3, 1]), torch.tensor([], dtype=torch.int64)]
    batches = list(DecodedImages(survey.folder.train, SHORTER_SIDE).batches(numbers))
    assert [images.shape for images, _ in batches] == [(2, 256, 256, 3), (0, 256, 256, 3)]
    assert [(images.dtype, labels.dtype) for images, labels in batches] == [(torch.uint8, torch.int64)] * 2


def test_a_packed_set_is_opened_by_the_process_that_it_is_sent_to(folder: Path, tmp_path: Path) -> None:
    packed = pack(find_images(folder / "data"), tmp_path / "some.pack", SHORTER_SIDE)
    sent = pickle.dumps(survey_of(packed, SHORTER_SIDE))
    assert len(sent) < 10_000
    side = pickle.loads(sent).folder.train
    assert np.array_equal(side.pack.images, packed.images)
    numbers = [torch.tensor([], dtype=torch.int64), torch.tensor([2])]
    batches = list(CopiedImages(side, torch.device("cpu")).batches(numbers))
    assert [len(images) for images, _ in batches] == [0, 1]


def test_each_process_drops_features_of_its_own_and_the_first_those_of_one_alone() -> None:
    data = memory_set()
    losses = []
    for ranks in (ALONE, Ranks(rank=0, size=1), Ranks(rank=1, size=1)):
        preprocessing = training_preprocessing("paper", FIRST, data.mean, data.covariance)
        learner = Learner(NARROW.with_num_classes(2), FIRST, preprocessing, data.covariance, Placement(ranks=ranks))
        ((images, labels),) = data.train.batches([torch.arange(6)])
        losses.append(learner.step(images, labels, epoch=1, step=0, rate=0.01).item())
    assert losses[0] == losses[1] != losses[2]


def test_a_process_alone_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cuda") as (ranks, device):
        assert (ranks, device) == (ALONE, "cuda")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined("cpu") as (ranks, device):
        assert (ranks, device) == (ALONE, "cpu")
    network = torch.nn.Linear(2, 2)
    assert ALONE.wrap(network) is network
    assert ALONE.broadcast(lambda: 3) == 3
    np.testing.assert_array_equal(ALONE.all_reduce(np.array([1.5, 2.5])), [1.5, 2.5])
    assert ALONE.shard(torch.tensor([4, 5])).tolist() == [4, 5]
    assert ALONE.all_reduce_mean(0.1) == 0.1


# Refusals


def test_an_environment_that_is_half_torchruns_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match=r"RANK is '' and not a number; start the processes with torchrun$"):
        joined("cpu").__enter__()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(UsageError, match=r"LOCAL_RANK is 'x' and not a number"):
        joined("cpu").__enter__()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BackendError, match=r"no GPU for process 1 of this machine: torch finds 1; lower --nproc"):
        joined("cuda").__enter__()


def test_a_batch_of_fewer_images_than_processes_is_refused(survey: Survey, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(FIRST, batch_size=2)
    with pytest.raises(UsageError, match=r"batch size 2 is too small for 3 processes; use --batch-size 3 or more$"):
        train_run(survey, TABLE, recipe, tmp_path / "run", placement=Placement(ranks=Ranks(rank=0, size=3)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer"), TrainingError),
        (RuntimeError("shapes do not fit"), RuntimeError),
    ],
)
def test_the_end_of_another_process_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError, becomes: type[Exception]
) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *arguments, **options: None)
    with pytest.raises(becomes) as caught, joined("cpu"):
        raise error
    assert type(caught.value) is becomes
    if becomes is TrainingError:
        assert str(caught.value) == "process 1 stopped because another process ended; see the error of that process"
