"""Manifests, training records and pages for tests of the report."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser

import msgspec
import numpy as np

from alexnet_deploy.core.bundle.accuracy import Accuracy, Fallback, Flip, Gate
from alexnet_deploy.core.bundle.contract import Output, contract_for
from alexnet_deploy.core.bundle.manifest import Manifest, ParityRow, Provenance, Views
from alexnet_deploy.core.bundle.plans import PlanOptions, PlanRecord, Profile
from alexnet_deploy.core.bundle.quantization import Calibration, Quantization
from alexnet_deploy.core.golden.record import Golden, GoldenFiles, TensorFile, Tolerance
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.family import PUBLISHED_PREPROCESSING, architecture_by_name
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import EpochMetrics, TrainingRecord
from alexnet_deploy.export.calibration import Histogram
from alexnet_deploy.report.bundle import render_report
from alexnet_deploy.report.page import Thumbnail

LABELS = ("container ship", "hot-air balloon", "mountain bike", "umbrella")
VOID = {"meta", "img", "br", "link", "input", "hr"}
IMAGES = golden_images()
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
FALLBACK = Fallback(layer="conv3", because="top-1 91.94%, FP32 93.12%: a drop of 1.18 points")
SEPARATION = {"mean dropped": 1.5e5, "crop off by one": 1.6e4, "LRN alpha times 5": 12.0}


class Page(HTMLParser):
    """Parser of a page's content that also checks its tags."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"}:
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def check_self_contained(raw: bytes) -> None:
    """Fail if a page would request anything from a network or another file."""
    page = Page(raw)
    assert {"script", "link", "iframe", "object", "base"}.isdisjoint(page.tags)
    assert page.references
    assert all(reference.startswith(("data:image/", "#")) for reference in page.references)
    assert not re.findall(rb"https?://", raw)
    # The browser enforces it even if a label injects markup; it must precede the first style or image.
    policy = b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    head, _, _ = raw.partition(b"<style>")
    assert b'<meta http-equiv="Content-Security-Policy" content="%s">' % policy in head
    assert b"@import" not in raw
    assert b"@font-face" not in raw
    assert all(target.startswith(b"#") for target in re.findall(rb"url\(([^)]*)", raw))
    targets = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert targets <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


def text_outside_bdi(raw: bytes) -> str:
    """A page's text and attributes, without the contents of bdi, title and alt."""
    attributes = r'(?:title|alt)="[^"]*"|<title>.*?</title>'
    return re.sub(rf"(?s)<bdi>.*?</bdi>|{attributes}", "", raw.decode())


def parity_row(backend: str = "onnxruntime", **changes: object) -> ParityRow:
    row = ParityRow(
        backend=backend,
        version="1.23.0",
        device="cpu",
        precision="fp32",
        arithmetic="float32",
        images="golden",
        num_images=8,
        max_error=2.4e-7,
        p99_error=8e-8,
        max_log_error=1.4e-5,
        kl_divergence=7e-9,
        top1_agreement=1.0,
        top5_agreement=1.0,
        top1_accuracy=None,
        latency_ms=None,
        failures=(),
    )
    return msgspec.structs.replace(row, **changes)


def make_manifest(
    architecture: Architecture | None = None,
    separation: dict[str, float] = SEPARATION,
    parity: tuple[ParityRow, ...] = (parity_row(), parity_row("openvino", max_error=1.8e-7)),
) -> Manifest:
    architecture = architecture or architecture_by_name("tiny").with_num_classes(len(LABELS))
    num_classes = architecture.num_classes
    return Manifest(
        created="2025-11-20T22:51:07+00:00",
        precision="fp32",
        contract=contract_for(Output(size=num_classes)),
        architecture=architecture,
        preprocessing=PUBLISHED_PREPROCESSING["tiny"],
        views=Views(name="ten", crops=views_by_name("ten", architecture.input_size)),
        provenance=Provenance(weights_sha256="ab12" * 16, data_sha256="cd34" * 16),
        tools={"alexnet-deploy": "0.1.0", "python": "3.11.7"},
        golden=Golden(
            images=TensorFile(file="golden/images.u8", dtype="uint8", shape=(8, 256, 256, 3)),
            probabilities=TensorFile(file="golden/probabilities.f32", dtype="float32", shape=(8, num_classes)),
            tolerance=Tolerance(probability=1e-5, log_probability=2e-4, top1_agreement=1.0),
            separation=separation,
            files=GoldenFiles(
                names=("golden/files/a.jpg",),
                pixels=TensorFile(file="golden/file_pixels.u8", dtype="uint8", shape=(1, 256, 256, 3)),
                probabilities=TensorFile(file="golden/file_probabilities.f32", dtype="float32", shape=(1, num_classes)),
            ),
        ),
        parity=parity,
        files={},
    )


def make_training(num_epochs: int = 8, num_classes: int = 4, **changes: object) -> TrainingRecord:
    confusion = 20 * np.eye(num_classes, dtype=int) + 3 * np.eye(num_classes, k=1, dtype=int)
    record = TrainingRecord(
        recipe={"name": "drawn", "epochs": 8, "learning_rate": 0.01, "color_noise": 0.0},
        data="/data/drawn",
        data_sha256="cd34" * 16,
        num_train=600,
        num_validation=100,
        excluded={},
        epochs=tuple(
            EpochMetrics(
                epoch=number,
                learning_rate=0.01 if number < 6 else 0.001,
                train_loss=1.2 / number,
                validation_loss=0.5 / number**3,
                validation_top1=1 - 0.4 / number,
                validation_top5=1 - 0.1 / number,
                images_per_second=240.0,
            )
            for number in range(1, num_epochs + 1)
        ),
        best_epoch=num_epochs,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        interrupted=False,
        seconds=119.0,
        device="cpu, 2 threads",
    )
    return msgspec.structs.replace(record, **changes)


def make_images(labels: Sequence[str] = LABELS) -> list[Thumbnail]:
    predictions = ((labels[0], 0.9712), (labels[1], 0.0287))
    truths = (labels[0], labels[1], None)
    return [
        Thumbnail(caption=f"image {number}", image=IMAGES[number], predictions=predictions, truth=truth)
        for number, truth in enumerate(truths)
    ]


def render(**changes: object) -> bytes:
    arguments: dict[str, object] = {
        "name": "drawn-fp32.bundle",
        "manifest": make_manifest(),
        "labels": LABELS,
        "training": None,
        "images": (),
    }
    return render_report(**(arguments | changes))  # type: ignore[arg-type]


def histogram_of(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.add(values.astype(np.float32))
    return histogram


def make_histograms() -> dict[str, Histogram]:
    generator = np.random.default_rng(0)
    return {layer: histogram_of(generator.laplace(size=20_000)) for layer in LAYERS[1:]}


def make_flip(number: int = 0, **changes: str) -> Flip:
    flip = Flip(path=f"val/{number:03}.jpg", truth="umbrella", reference="umbrella", candidate="mountain bike")
    return msgspec.structs.replace(flip, **changes)


def make_accuracy(**changes: object) -> Accuracy:
    accuracy = Accuracy(
        images_sha256="ef56" * 16,
        num_images=5000,
        reference_top1=0.9312,
        reference_top5=0.99,
        candidate_top1=0.9284,
        candidate_top5=0.989,
        drop_points=0.28,
        interval_points=(-0.06, 0.61),
        max_drop_points=0.5,
        flips=(make_flip(),),
    )
    return msgspec.structs.replace(accuracy, **changes)


def make_gate(**changes: object) -> Gate:
    gate = Gate(
        accuracy=make_accuracy(),
        calibration_agreement=None,
        sensitivity={layer: 10.0**-place for place, layer in enumerate(LAYERS[:-1], start=2)},
        fallbacks=(FALLBACK,),
    )
    return msgspec.structs.replace(gate, **changes)


def make_int8(gate: Gate | None = None, **changes: object) -> Manifest:
    """Return a manifest in which conv3 fell back to float and fc8 was kept in float."""
    manifest = make_manifest()
    golden = msgspec.structs.replace(
        manifest.golden, tolerance=Tolerance(probability=0.25, log_probability=4.0, top1_agreement=0.99)
    )
    quantization = Quantization(
        ranges={layer: 2.5 for layer in LAYERS if layer not in {"conv3", "fc8"}},
        rest="fp16",
        calibration=Calibration(
            method="percentile", num_images=512, images_sha256="12ab" * 16, graph_sha256="34cd" * 16
        ),
    )
    defaults: dict[str, object] = {
        "precision": "int8",
        "golden": golden,
        "quantization": quantization,
        "gate": gate or make_gate(),
        "parity": (parity_row(), parity_row(precision="int8", max_error=0.02)),
    }
    return msgspec.structs.replace(manifest, **(defaults | changes))


def make_plan(**changes: object) -> PlanRecord:
    plan = PlanRecord(
        file="plans/tensorrt-rtx-1.3.0-aot.engine",
        backend="tensorrt-rtx",
        version="1.3.0",
        target="aot",
        graph_sha256="ab12" * 16,
        profile=Profile(min_batch=1, opt_batch=8, max_batch=16),
        options=PlanOptions(),
        build_seconds=11.2,
        layers={"CONVOLUTION int8": 5, "LRN float32": 2},
        proof="pending",
    )
    return msgspec.structs.replace(plan, **changes)
