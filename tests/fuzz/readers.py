"""Every reader of untrusted files of this program, each with valid files to damage."""

import json
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import archives
import changes
import msgspec
import numpy as np
import torch
from changes import Change

from alexnet_deploy.core.bundle.contract import Output, contract_for
from alexnet_deploy.core.bundle.manifest import Manifest, Provenance, Views
from alexnet_deploy.core.bundle.store import open_bundle, publishing
from alexnet_deploy.core.errors import ImageError, ImageErrorCode, WeightsError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.fs.hidden import hidden_beside
from alexnet_deploy.core.fs.latest import get_latest
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.golden.record import Golden, GoldenFiles, TensorFile
from alexnet_deploy.core.images.decode import decode_image
from alexnet_deploy.core.images.drawing import draw_folder
from alexnet_deploy.core.model.architecture import (
    Architecture,
    Conv,
    Dropout,
    Flatten,
    Linear,
    LocalNorm,
    MaxPool,
    Relu,
)
from alexnet_deploy.core.model.labels import encode_labels
from alexnet_deploy.core.model.preprocessing import DECODING, SHORTER_SIDE, Preprocessing
from alexnet_deploy.core.model.tensor_file import BLANK
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import CHECKPOINT_KEY, METADATA_KEY, Weights, load_weights
from alexnet_deploy.engines.proof.golden_files import prove_decoder
from alexnet_deploy.engines.proof.tolerances import TOLERANCES
from alexnet_deploy.export.audit import audit_graph
from alexnet_deploy.export.calibration import Histogram
from alexnet_deploy.export.calibration_cache import KEY as CACHE_KEY
from alexnet_deploy.export.calibration_cache import CalibrationCache, load_cache, save_cache
from alexnet_deploy.export.graph import build_graph, encode_graph, facts_for_graph
from alexnet_deploy.inspection.facts import inspect_path
from alexnet_deploy.predict.output import open_row_file, whole_rows
from alexnet_deploy.predict.prediction import Guess, Prediction
from alexnet_deploy.predict.row_formats import RowFormat, RowWriter
from alexnet_deploy.train.data import cifar10 as cifar
from alexnet_deploy.train.data import ilsvrc
from alexnet_deploy.train.data import ilsvrc_devkit as devkit
from alexnet_deploy.train.data.scan import find_images
from alexnet_deploy.train.loop.checkpoint import Checkpoint, Position, load_checkpoint, load_tensors, save_checkpoint
from alexnet_deploy.train.pack import format as packed
from alexnet_deploy.train.pack.journal import Chunk, noted_chunks
from alexnet_deploy.train.pack.writer import pack
from alexnet_deploy.train.recipe import recipe_by_name
from alexnet_deploy.train.recipe_text import recipe_as_toml
from alexnet_deploy.train.runtime.placement import HERE

LABELS = ("ship", "umbrella")
TABLE = Architecture(
    name="small",
    input_size=8,
    layers=(
        Conv(name="conv1", out_channels=4, kernel=3, padding=(1, 1, 0, 0), groups=1),
        Relu(name="relu1"),
        LocalNorm(name="norm1", size=3, alpha=1e-4, beta=0.75, k=2.0),
        MaxPool(name="pool1", kernel=3, stride=2),
        Flatten(name="flatten"),
        Dropout(name="drop"),
        Linear(name="fc", out_features=len(LABELS)),
    ),
)
# One grey pixel.
_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a"
    "7e9b550000000a49444154789c636800000082008177cd72b60000000049"
    "454e44ae426082"
)
PREPROCESSING = Preprocessing(resize="warp", channel_order="BGR", mean=(1.0, 2.0, 3.0), scale=(1.0, 1.0, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A reader and its files."""

    make: Callable[[Path], None]
    """Writes valid files into a folder."""
    read: Callable[[Path], object]
    """Reads them; raises AlexNetDeployError if they are not valid."""
    targets: Mapping[str, tuple[Change, ...]]
    """Names of the files to damage, each with its structural mutations in addition to those of bytes."""
    seal: Callable[[Path], None] = field(default=lambda folder: None)
    """Updates the digests of damaged files, as an attacker would; may fail."""


def _weights(path: Path) -> Weights:
    tensors = {name: np.full(shape, 0.01, np.float32) for name, shape in TABLE.tensor_shapes().items()}
    weights = Weights(
        architecture=TABLE, tensors=tensors, preprocessing=PREPROCESSING, labels=LABELS, training=None, tools={"x": "1"}
    )
    weights.save(path)
    return weights


def _make_checkpoint(folder: Path) -> None:
    state = {f"network.{name}": torch.full(shape, 0.01) for name, shape in TABLE.tensor_shapes().items()}
    checkpoint = Checkpoint(
        format_version=0,
        architecture=TABLE,
        recipe=recipe_by_name("fast"),
        data="/images",
        data_sha256="1" * 64,
        machine=HERE.machine(),
        position=Position(step=3, loss_sum=1.0, seconds=2.0),
        tools={},
    )
    save_checkpoint(folder / "x.safetensors", checkpoint, state)
    (folder / "checkpoint.safetensors").write_bytes((folder / "x.safetensors").read_bytes())


def _read_checkpoint(folder: Path) -> None:
    path = folder / "checkpoint.safetensors"
    load_tensors(path, load_checkpoint(path))
    inspect_path(folder)


def _seal_tensors(path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for key in (METADATA_KEY, CHECKPOINT_KEY, CACHE_KEY):
        if key in header["__metadata__"]:
            fields = json.loads(header["__metadata__"][key]) | {"header_sha256": BLANK}
            text = json.dumps(fields, separators=(",", ":"))
            header["__metadata__"][key] = text.replace(
                f'"header_sha256":"{BLANK}"', f'"header_sha256":"{sha256(text.encode())}"'
            )
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def _manifest() -> Manifest:
    return Manifest(
        created="now",
        precision="fp32",
        contract=contract_for(Output(size=len(LABELS))),
        architecture=TABLE,
        preprocessing=PREPROCESSING,
        decoding=DECODING,
        views=Views(name="ten", crops=views_by_name("ten", TABLE.input_size)),
        provenance=Provenance(weights_sha256="1" * 64, data_sha256=None),
        tools={"x": "1"},
        golden=Golden(
            images=TensorFile(file="golden/images.u8", dtype="uint8", shape=(1, 256, 256, 3)),
            probabilities=TensorFile(file="golden/probabilities.f32", dtype="float32", shape=(1, len(LABELS))),
            tolerance=TOLERANCES["fp32"],
            separation={"no mean": 11.0},
            files=GoldenFiles(
                names=("golden/files/a.png",),
                pixels=TensorFile(file="golden/file_pixels.u8", dtype="uint8", shape=(1, 256, 256, 3)),
                probabilities=TensorFile(file="golden/file_probabilities.f32", dtype="float32", shape=(1, len(LABELS))),
            ),
        ),
        parity=(),
        files={},
    )


def _make_bundle(folder: Path) -> None:
    with publishing(folder / "bundle") as stage:
        stage.write("labels.txt", encode_labels(LABELS))
        stage.write("golden/images.u8", bytes(256 * 256 * 3))
        stage.write("golden/probabilities.f32", np.full(2, 0.5, "<f4").tobytes())
        stage.write("golden/files/a.png", _PNG)
        stage.write("golden/file_pixels.u8", decode_image(_PNG, PREPROCESSING.image_policy).tobytes())
        stage.write("golden/file_probabilities.f32", np.full(2, 0.5, "<f4").tobytes())
        stage.seal(_manifest())


def _read_bundle(folder: Path) -> None:
    bundle = open_bundle(folder / "bundle")
    bundle.verify()
    inspect_path(folder / "bundle")
    for tensor in (bundle.manifest.golden.images, bundle.manifest.golden.probabilities):
        bundle.read_tensor(tensor)
    prove_decoder(bundle)


def _seal_bundle(folder: Path) -> None:
    path = folder / "bundle" / "manifest.json"
    fields = json.loads(path.read_bytes())
    for name, entry in fields["files"].items():
        data = (folder / "bundle" / name).read_bytes()
        entry.update(sha256=sha256(data), bytes=len(data))
    manifest = msgspec.structs.replace(msgspec.convert(fields, Manifest), sha256="")
    fields["sha256"] = sha256(msgspec.json.encode(manifest, order="deterministic"))
    path.write_bytes(json.dumps(fields).encode())


def _make_graph(folder: Path) -> None:
    manifest = _manifest()
    model = build_graph(_weights(folder / "w.safetensors"), manifest.views.crops)
    (folder / "x.onnx").write_bytes(encode_graph(model, facts_for_graph(manifest, LABELS)))


def _read_graph(folder: Path) -> None:
    audit_graph((folder / "x.onnx").read_bytes(), _manifest(), LABELS)
    inspect_path(folder / "x.onnx")


def _make_cache(folder: Path) -> None:
    histogram = Histogram()
    histogram.add(np.arange(100, dtype=np.float32))
    cache = CalibrationCache(
        graph_sha256="1" * 64, images_sha256="2" * 64, num_images=1, histograms={"conv1": histogram}
    )
    save_cache(folder / "x.safetensors", cache)


def _read_cache(folder: Path) -> None:
    load_cache(folder / "x.safetensors")


def _read_architecture(folder: Path) -> None:
    """An architecture as stored in weights, checkpoints and manifests; it has no file of its own."""
    try:
        from_json((folder / "x.json").read_bytes(), Architecture).tensor_shapes()
    except msgspec.DecodeError as error:
        raise WeightsError(str(error)) from error


def _make_pack(folder: Path) -> None:
    draw_folder(folder / "drawn", num_train=1, num_validation=1)
    pack(find_images(folder / "drawn"), folder / "pack", SHORTER_SIDE, chunk_images=2, threads=1)


def _read_pack(folder: Path) -> None:
    found = packed.open_pack(folder / "pack")
    list(packed.verify(found, threads=1))
    packed.survey_of(found, SHORTER_SIDE)
    inspect_path(folder / "pack")


def _seal_pack(folder: Path) -> None:
    path = folder / "pack" / "pack.json"
    header = msgspec.json.decode(path.read_bytes(), type=packed.PackHeader)
    labels, sources = ((folder / "pack" / name).read_bytes() for name in (packed.LABELS, packed.SOURCES))
    fresh = msgspec.structs.replace(header, labels_sha256=sha256(labels), source_sha256=sha256(sources))
    path.write_bytes(packed.encode_header(fresh))


def _make_journal(folder: Path) -> None:
    chunks = [
        Chunk(
            num_seen=number,
            num_images=number,
            sources_bytes=10 * number,
            sha256="1" * 64,
            sources_sha256="2" * 64,
            excluded=((number, "x.jpg", "empty"),),
            num_pixels=65536,
            total=(1, 2, 3),
            products=((1, 2, 3),) * 3,
        )
        for number in (1, 2, 3)
    ]
    (folder / "x.jsonl").write_bytes(b"".join(msgspec.json.encode(chunk) + b"\n" for chunk in chunks))


def _read_journal(folder: Path) -> None:
    with (folder / "x.jsonl").open("rb") as file:
        noted_chunks(file)


def _make_devkit(folder: Path) -> None:
    (folder / "plain.mat").write_bytes(archives.meta_of(archives.WNIDS, is_compressed=False))
    (folder / "compressed.mat").write_bytes(archives.meta_of(archives.WNIDS))
    (folder / "truth.txt").write_text("".join(f"{number}\n" for number in archives.TRUTH))


def _read_devkit(folder: Path) -> None:
    truth = (folder / "truth.txt").read_text(errors="surrogateescape").encode("utf-8", "surrogateescape")
    for name in ("plain.mat", "compressed.mat"):
        archives.write_devkit(folder, truth.decode("latin-1"), (folder / name).read_bytes())
        devkit.validation_wnids(folder / ilsvrc.DEVKIT)


def _make_archives(folder: Path) -> None:
    archives.write_ilsvrc(folder, archives.ilsvrc_images())
    (folder / ilsvrc.MAPPING).write_text("".join(f"{archives.WNIDS[truth - 1]}\n" for truth in archives.TRUTH))


def _read_archives(folder: Path) -> None:
    source = find_images(folder)
    for example in (source.train[0], source.validation[-1]):
        with suppress(ImageError):
            example.read()


def _make_packed_devkit(folder: Path) -> None:
    archives.write_devkit(folder, "1\n2\n", archives.meta_of(archives.WNIDS))


def _make_cifar(folder: Path) -> None:
    archives.write_batches(folder, archives.cifar_batches())


def _make_cifar_archive(folder: Path) -> None:
    archives.write_cifar(folder, archives.cifar_batches())


def _make_latest(folder: Path) -> None:
    (folder / "one").mkdir()
    (folder / "latest").write_text("one\n")


def _rows(row_format: RowFormat) -> Reader:
    writer = RowWriter(row_format, topk=len(LABELS), labels=LABELS)
    top = tuple(Guess(index=number, label=label, probability=0.5) for number, label in enumerate(LABELS))
    rows = [
        Prediction(path='a, "b"\n.jpg', top=top, error=None, message=""),
        Prediction(path="c.jpg", top=(), error=ImageErrorCode.EMPTY, message="no bytes"),
        Prediction(path="d.jpg", top=top, error=None, message=""),
    ]

    def make(folder: Path) -> None:
        with suppress(KeyboardInterrupt), open_row_file(folder / "out", writer, "x", resume=False) as file:
            for row in rows:
                file.write(row)
            raise KeyboardInterrupt
        (partial,) = folder.glob(".out*")
        partial.rename(folder / "partial")

    def read(folder: Path) -> None:
        # Under the name used by a stopped run.
        place = hidden_beside(folder / "out", f".{sha256(repr((writer.form, 'x')).encode())[:12]}.partial")
        place.write_bytes((folder / "partial").read_bytes())
        try:
            with suppress(KeyboardInterrupt), open_row_file(folder / "out", writer, "x", resume=True) as file:
                list(file.done())
                raise KeyboardInterrupt
        finally:
            place.unlink(missing_ok=True)
        list(whole_rows(folder / "partial", writer))

    def lines(chance: random.Random, data: bytes) -> bytes:
        whole = data.splitlines(keepends=True)
        place = chance.randrange(len(whole))
        if row_format == "jsonl":
            whole[place] = changes.json_change(chance, whole[place]) + b"\n"
        else:
            whole[place] = whole[place].replace(b",", chance.choice((b",,", b"", b',"', b"\0,", b",nan,", b",-1,")), 1)
        return b"".join(whole)

    return Reader(make=make, read=read, targets={"partial": (lines,)})


JSON = (changes.json_change,)
TENSORS = (changes.tensor_file_change,)

OWN_READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "bundle": Reader(
            make=_make_bundle,
            read=_read_bundle,
            targets={
                "bundle/manifest.json": JSON * 3,
                "bundle/labels.txt": (),
                "bundle/golden/probabilities.f32": (),
                "bundle/golden/files/a.png": (),
            },
            seal=_seal_bundle,
        ),
        "weights": Reader(
            make=lambda folder: _weights(folder / "x.safetensors"),
            read=lambda folder: (load_weights(folder / "x.safetensors"), inspect_path(folder / "x.safetensors")),
            targets={"x.safetensors": TENSORS * 3},
            seal=lambda folder: _seal_tensors(folder / "x.safetensors"),
        ),
        "checkpoint": Reader(
            make=_make_checkpoint,
            read=_read_checkpoint,
            targets={"checkpoint.safetensors": TENSORS * 3},
            seal=lambda folder: _seal_tensors(folder / "checkpoint.safetensors"),
        ),
        "graph": Reader(make=_make_graph, read=_read_graph, targets={"x.onnx": ()}),
        "architecture": Reader(
            make=lambda folder: (folder / "x.json").write_bytes(msgspec.json.encode(TABLE)),
            read=_read_architecture,
            targets={"x.json": JSON * 2},
        ),
        "recipe": Reader(
            make=lambda folder: (folder / "x.toml").write_text(recipe_as_toml("fast") + '\nextends = "folder"\n'),
            read=lambda folder: recipe_by_name(str(folder / "x.toml")),
            targets={"x.toml": (changes.toml_change,) * 4},
        ),
        "calibration-cache": Reader(
            make=_make_cache,
            read=_read_cache,
            targets={"x.safetensors": TENSORS * 3},
            seal=lambda folder: _seal_tensors(folder / "x.safetensors"),
        ),
        "latest": Reader(
            make=_make_latest,
            read=lambda folder: get_latest(folder, made_by="x"),
            targets={"latest": ()},
        ),
        "rows-jsonl": _rows("jsonl"),
        "rows-csv": _rows("csv"),
        "pack": Reader(
            make=_make_pack,
            read=_read_pack,
            targets={"pack/pack.json": JSON * 3, "pack/labels.i32": (), "pack/sources.txt": ()},
            seal=_seal_pack,
        ),
        "journal": Reader(make=_make_journal, read=_read_journal, targets={"x.jsonl": ()}),
        "tar": Reader(
            make=_make_archives,
            read=_read_archives,
            targets={
                ilsvrc.TRAIN: (changes.tar_change,) * 4,
                ilsvrc.VALIDATION: (changes.tar_change,) * 4,
                ilsvrc.MAPPING: (),
            },
        ),
        "devkit": Reader(
            make=_make_devkit, read=_read_devkit, targets={"plain.mat": (), "compressed.mat": (), "truth.txt": ()}
        ),
        "devkit-archive": Reader(
            make=_make_packed_devkit,
            read=lambda folder: devkit.validation_wnids(folder / ilsvrc.DEVKIT),
            targets={ilsvrc.DEVKIT: (changes.gzip_tar_change,) * 9},
        ),
        "CIFAR-batch": Reader(make=_make_cifar, read=find_images, targets={cifar.TRAIN[0]: (), cifar.VALIDATION: ()}),
        "CIFAR-archive": Reader(
            make=_make_cifar_archive, read=find_images, targets={cifar.ARCHIVE: (changes.gzip_tar_change,) * 9}
        ),
    }
)
