"""Files from before modules moved and fields were renamed are still read correctly (older.tar.xz).

Written by commit 5ab4967: a bundle without its golden images, which any version can draw; its weights; a stopped run; a
packed set and an interrupted one; and rows of `predict`.
"""

import tarfile
from pathlib import Path

import msgspec
import pytest
from commands import Run
from networks import narrowed
from training import RECIPE, memory_set

from alexnet_deploy.core.bundle.store import GOLDEN_IMAGES, open_bundle
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.pipeline.check import check
from alexnet_deploy.train.data.scan import find_images
from alexnet_deploy.train.pack.format import open_pack, verify
from alexnet_deploy.train.pack.writer import pack
from alexnet_deploy.train.run import Resume, train


@pytest.fixture
def older(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).with_name("older.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "int8/a.bundle" / GOLDEN_IMAGES).write_bytes(golden_images().tobytes())
    return tmp_path


def test_a_bundle_and_its_weights_pass_their_check(older: Path) -> None:
    loaded = load_weights(older / "int8/weights.safetensors")
    result = check(open_bundle(older / "int8/a.bundle"), weights=loaded)
    assert result.passed
    assert {row.images for row in result.rows} == {"golden"}
    assert result.decoder is None
    assert "no image file was decoded: the bundle has no golden files; export again to add them" in result.not_done


def test_a_stopped_run_is_resumed_to_its_end(older: Path) -> None:
    recipe = msgspec.structs.replace(RECIPE, epochs=2)
    architecture = narrowed(ARCHITECTURES["paper"], divisor=16)
    best = train(memory_set(), architecture, recipe, older / "run", resume=Resume.ANY_MACHINE)
    assert [line.epoch for line in load_weights(best).weights.training.epochs] == [1, 2]
    assert len((older / "run/metrics.jsonl").read_text().splitlines()) == 2


def test_a_packed_set_is_sound(older: Path) -> None:
    packed = open_pack(older / "flat.pack")
    assert packed.header.num_images == 12
    assert list(verify(packed))[-1] == 12


def test_an_interrupted_pack_is_continued_to_the_same_bytes(older: Path) -> None:
    partial = older / ".half.pack.partial"
    # It was made on another machine, with other versions of Python and Pillow.
    plan = msgspec.json.decode((partial / "plan.json").read_bytes())
    plan |= {"source": str(older / "flat"), "tools": tool_versions()}
    (partial / "plan.json").write_bytes(msgspec.json.encode(plan))
    told: list[int] = []
    pack(
        find_images(older / "flat"),
        older / "half.pack",
        SHORTER_SIDE,
        chunk_images=2,
        on_progress=lambda num_seen, num_examples: told.append(num_seen),
    )
    assert min(told) > 2, "what was packed is not packed again"
    assert (older / "half.pack/pictures.u8").read_bytes() == (older / "flat.pack/pictures.u8").read_bytes()


def test_interrupted_rows_are_continued(older: Path, run: Run) -> None:
    # The limit on pixels that was the default then.
    limit = ("--max-pixels", 2**27)
    command = ("predict", "flat/val", "--bundle", "int8/a.bundle", "--backend", "onnxruntime", *limit)
    outcome = run(*command, "--output", "more.jsonl", "--resume")
    assert outcome.code == 0, outcome
    assert "2 rows" in outcome.err
    whole, continued = ((older / name).read_bytes().splitlines() for name in ("rows.jsonl", "more.jsonl"))
    assert continued[:2] == whole[:2]
    assert [msgspec.json.decode(line)["path"] for line in continued] == [
        msgspec.json.decode(line)["path"] for line in whole
    ]
