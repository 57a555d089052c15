"""Batches of the training step, at a thousandth of ImageNet: 1,281 training and 50 validation images."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from archives import write_batches
from commands import HANGS_AFTER_S
from training import NARROW, RECIPE, paint

from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.train.data import loader as feed
from alexnet_deploy.train.data.batches import Batches, in_batches
from alexnet_deploy.train.data.loader import CopiedImages, ResidentImages, batches_of, is_resident
from alexnet_deploy.train.data.scan import DecodedImages, find_images
from alexnet_deploy.train.learner.learner import Learner
from alexnet_deploy.train.pack import format as packed_format
from alexnet_deploy.train.pack.format import IMAGE_BYTES, Pack, PackedSide
from alexnet_deploy.train.pack.writer import pack
from alexnet_deploy.train.run import look_over, train

NUM_TRAIN, NUM_VALIDATION = 1281, 50
CPU = torch.device("cpu")


def numbered(first: int, num_records: int) -> bytes:
    """Records of flat images whose colour encodes their number; classes take turns."""
    records = np.zeros((num_records, 3, 1024), np.uint8)
    numbers = np.arange(first, first + num_records)
    for channel, values in enumerate((numbers & 255, numbers >> 8, 77)):
        records[:, channel] = np.asarray(values)[..., None]
    labels = (numbers % 10).astype(np.uint8)
    return np.concatenate([labels[:, None], records.reshape(num_records, -1)], axis=1).tobytes()


def numbers_in(images: torch.Tensor) -> list[int]:
    corners = images[:, 0, 0].to(torch.int64)
    assert (images == images[:, :1, :1]).all()
    return (corners[:, 0] + 256 * corners[:, 1]).tolist()


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = (257, 256, 256, 256, 256)
    files = {f"data_batch_{place + 1}.bin": numbered(sum(sizes[:place]), size) for place, size in enumerate(sizes)}
    return write_batches(
        tmp_path_factory.mktemp("batches"), {**files, "test_batch.bin": numbered(2000, NUM_VALIDATION)}
    )


@pytest.fixture(scope="module")
def packed(batches: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return pack(find_images(batches), tmp_path_factory.mktemp("packed") / "thousandth.pack", SHORTER_SIDE)


def side_of(found: Pack) -> PackedSide:
    return PackedSide(pack=found, numbers=range(NUM_TRAIN))


def test_each_epoch_is_a_permutation_of_its_own_with_nothing_lost_or_doubled(
    packed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def note(learner: Learner, images: torch.Tensor, labels: torch.Tensor, **_: object) -> torch.Tensor:
        numbers = numbers_in(images)
        assert labels.tolist() == [number % 10 for number in numbers]
        seen.extend(numbers)
        return torch.tensor(1.0)

    # Only the images are checked, and the network is not run: a step takes longer than the whole test.
    monkeypatch.setattr(Learner, "step", note)
    recipe = msgspec.structs.replace(RECIPE, epochs=3, batch_size=100)
    train(look_over(packed.path, SHORTER_SIDE), NARROW, recipe, tmp_path / "run")
    assert len(seen) == 3 * NUM_TRAIN
    epochs = [seen[start : start + NUM_TRAIN] for start in range(0, len(seen), NUM_TRAIN)]
    for number, order in enumerate(epochs):
        assert sorted(order) == list(range(NUM_TRAIN))
        assert all(order != other for other in epochs[:number])
        # A random permutation has one fixed point on average, and 12 once in a billion times.
        assert sum(place == image for place, image in enumerate(order)) < 12


def feeds_of(packed: Pack) -> dict[str, Batches]:
    side = side_of(packed)
    return {
        "decoding": DecodedImages(side, SHORTER_SIDE),
        "copying": CopiedImages(side, CPU),
        "resident": ResidentImages(side, CPU),
    }


@pytest.mark.parametrize("name", ["decoding", "copying", "resident"])
@pytest.mark.parametrize("batch_size", [1, 64, 300])
def test_every_feed_gives_the_images_that_are_asked_for_in_that_order(packed: Pack, name: str, batch_size: int) -> None:
    found = feeds_of(packed)[name]
    order = torch.randperm(NUM_TRAIN, generator=torch.Generator().manual_seed(1))[:200]
    before = torch.get_rng_state()
    batches = list(found.batches(in_batches(order, batch_size)))
    # Training draws dropout next, which must not depend on the source of the images.
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(images) for images, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert len(found) == NUM_TRAIN
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert numbers_in(images) == order.tolist()
    assert labels.tolist() == [number % 10 for number in order.tolist()]
    assert list(found.batches(in_batches(order[:0], batch_size))) == []


def test_a_number_of_no_image_is_refused_and_not_clipped_to_the_last(packed: Pack) -> None:
    for name, found in feeds_of(packed).items():
        for number in (NUM_TRAIN + NUM_VALIDATION, -NUM_TRAIN - 1):
            # Raised by the packed set, by torch on the device, and by Python.
            error = {"copying": ValueError, "resident": (IndexError, RuntimeError), "decoding": IndexError}[name]
            with pytest.raises(error):
                list(found.batches([torch.tensor([0, number])]))


def test_the_validation_side_begins_where_the_training_side_ends(packed: Pack) -> None:
    validation = look_over(packed.path, SHORTER_SIDE).folder.validation
    ((images, labels),) = batches_of(validation, SHORTER_SIDE, CPU).batches([torch.arange(NUM_VALIDATION)])
    assert numbers_in(images) == list(range(2000, 2050))
    assert labels.tolist() == 5 * list(range(10))


def test_a_batch_is_the_loops_own_to_write_to(packed: Pack) -> None:
    found = CopiedImages(side_of(packed), CPU)
    (images, _), *_ = found.batches([torch.arange(8)])
    images[:] = 255
    (again, _), *_ = found.batches([torch.arange(8)])
    assert numbers_in(again) == list(range(8))


def test_images_stay_on_a_gpu_that_has_twice_the_room(packed: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 2 * NUM_TRAIN * IMAGE_BYTES
    gpu = torch.device("cuda")
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80_000_000_000))
        assert is_resident(NUM_TRAIN, gpu) == fits
    assert not is_resident(1, CPU)
    for fits, kind in ((True, ResidentImages), (False, CopiedImages)):
        monkeypatch.setattr(feed, "is_resident", lambda num_images, device, fits=fits: fits)
        assert type(batches_of(side_of(packed), SHORTER_SIDE, CPU)) is kind


def test_images_that_are_not_packed_are_decoded(tmp_path: Path) -> None:
    train = find_images(paint(tmp_path / "data", {"blue": ((1, 2, 3),), "red": ((4, 5, 6),)})).train
    assert type(batches_of(train, SHORTER_SIDE, CPU)) is DecodedImages


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_is_fed_the_same_images_by_both_ways(packed: Pack) -> None:
    gpu = torch.device("cuda")
    order = torch.randperm(NUM_TRAIN, generator=torch.Generator().manual_seed(1))
    for found in (CopiedImages(side_of(packed), gpu), ResidentImages(side_of(packed), gpu)):
        seen = []
        for images, labels in found.batches(in_batches(order, 100)):
            assert images.device.type == labels.device.type == "cuda"
            seen += numbers_in(images)
            assert labels.tolist() == [number % 10 for number in seen[-len(labels) :]]
        assert seen == order.tolist()


MEASURED = """
import json, sys
from pathlib import Path
import torch
from alexnet_deploy.train.data.batches import Batches, in_batches
from alexnet_deploy.train.data.scan import find_images
from alexnet_deploy.train.data.loader import batches_of
from alexnet_deploy.train.pack.writer import pack
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.train.pack.format import survey_of

def anonymous_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024

source = find_images(Path(sys.argv[1]))
before = anonymous_mb()
packing = []
def note(num_seen, num_examples):
    packing.append(anonymous_mb())

found = pack(source, Path(sys.argv[2]), SHORTER_SIDE, threads=2, on_progress=note)
examples = survey_of(found, SHORTER_SIDE).folder.train
feed = batches_of(examples, SHORTER_SIDE, torch.device("cpu"))
epochs = []
for _ in range(4):
    epochs.append(max(anonymous_mb() for _ in feed.batches(in_batches(torch.randperm(len(examples)), 16))))
print(json.dumps({"before": before, "packing": packing, "epochs": epochs}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux tells it")
def test_memory_does_not_grow_with_the_images(batches: Path, tmp_path: Path) -> None:
    # RssAnon: pages of the process without a file. Pages of the mapped file belong to the system's cache, which can
    # drop them.
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, batches, tmp_path / "one.pack"],
        stdout=subprocess.PIPE,
        check=True,
        timeout=HANGS_AFTER_S,
    )
    found = json.loads(done.stdout)
    # 64 decoded images of 0.2 MB are buffered; 252 MB are written.
    assert max(found["packing"]) < found["before"] + 60
    # Seven batches of 3 MB are in flight, and the allocator keeps a few more; 4 x 252 MB were read.
    assert max(found["epochs"]) < found["before"] + 120


def test_a_pack_of_imagenet_is_as_large_as_the_documentation_says() -> None:
    assert IMAGE_BYTES == 196_608
    assert round(1_281_167 * IMAGE_BYTES / 1e9, 1) == 251.9
    assert round(50_000 * IMAGE_BYTES / 1e9, 1) == 9.8
    for size in ("196,608 bytes", "251.9 GB", "9.8 GB"):
        assert size in (packed_format.__doc__ or "")
