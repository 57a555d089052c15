"""The page that a person looks at: complete, self-contained, safe, and never more hopeful than the numbers."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser

import matplotlib
import msgspec
import numpy as np
import pytest

from alexnet_deploy.core.architecture import Architecture
from alexnet_deploy.core.drawing import golden_pictures
from alexnet_deploy.core.family import PUBLISHED_PREPROCESSING, architecture_by_name
from alexnet_deploy.core.manifest import (
    Golden,
    Manifest,
    ParityRow,
    Provenance,
    TensorFile,
    Tolerance,
    Views,
    contract_for,
)
from alexnet_deploy.core.views import views_by_name
from alexnet_deploy.core.weights import EpochMetrics, TrainingRecord
from alexnet_deploy.report import Picture, render_report

LABELS = ("container ship", "hot-air balloon", "mountain bike", "umbrella")
VOID = {"meta", "img", "br", "link", "input", "hr"}
IMAGES = golden_pictures()
SEPARATION = {"mean dropped": 1.5e5, "crop off by one": 1.6e4, "LRN alpha times 5": 12.0}


class Page(HTMLParser):
    """What is in a page, with its tags checked as they come."""

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


def parity_row(backend: str = "onnxruntime", **changes: object) -> ParityRow:
    row = ParityRow(
        backend=backend,
        version="1.23.0",
        device="cpu",
        arithmetic="float32",
        pictures="golden",
        num_images=8,
        max_error=2.4e-7,
        p99_error=8e-8,
        max_log_error=1.4e-5,
        top1_agreement=1.0,
        top5_agreement=1.0,
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
        contract=contract_for(num_classes),
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


def make_pictures(labels: Sequence[str] = LABELS) -> list[Picture]:
    guesses = ((labels[0], 0.9712), (labels[1], 0.0287))
    truths = (labels[0], labels[1], None)
    return [
        Picture(caption=f"picture {number}", image=IMAGES[number], guesses=guesses, truth=truth)
        for number, truth in enumerate(truths)
    ]


def render(**changes: object) -> bytes:
    arguments: dict[str, object] = {
        "name": "drawn-fp32.bundle",
        "manifest": make_manifest(),
        "labels": LABELS,
        "training": None,
        "pictures": (),
    }
    return render_report(**(arguments | changes))  # type: ignore[arg-type]


def render_all() -> bytes:
    return render(training=make_training(), pictures=make_pictures())


def test_the_verdict_and_the_facts_stand_in_the_page() -> None:
    text = Page(render()).text
    verdict = (
        "This engine says what the trained network says: largest difference 2.4e-7 over 8 golden pictures "
        "on 2 engines, where 1e-5 is allowed."
    )
    assert verdict in text
    for fact in ("drawn-fp32.bundle", "tiny", "ab12ab12ab12", "2025-11-20 22:51 UTC", "809,572", "620.3 million"):
        assert fact in text
    assert "they do not prove who published them" in text


def test_the_page_needs_nothing_but_itself() -> None:
    raw = render_all()
    page = Page(raw)
    assert {"script", "link", "iframe", "object", "base"}.isdisjoint(page.tags)
    assert page.references
    assert all(reference.startswith(("data:image/", "#")) for reference in page.references)
    assert set(re.findall(rb"https?://[^\"\s]+", raw)) == {
        b"http://www.w3.org/1999/xlink",
        b"http://www.w3.org/2000/svg",
    }
    assert b"@import" not in raw
    assert b"@font-face" not in raw
    assert all(target.startswith(b"#") for target in re.findall(rb"url\(([^)]*)", raw))


def test_the_plots_share_the_page_without_sharing_names_or_styles() -> None:
    raw = render_all()
    page = Page(raw)
    assert page.tags.count("style") == 1
    assert len(set(page.ids)) == len(page.ids)
    targets = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert targets <= set(page.ids)
    assert b"#0a0b0" not in raw, "every colour is the page's own, for light and for dark"


def test_the_same_input_gives_the_same_bytes_and_leaves_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    assert render_all() == render_all()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("num_classes", "name"), [(2, "tiny"), (4, "tiny"), (30, "tiny"), (31, "tiny"), (1000, "paper")]
)
def test_any_number_of_classes_renders(num_classes: int, name: str) -> None:
    labels = [f"class {number}" for number in range(num_classes)]
    manifest = make_manifest(architecture_by_name(name).with_num_classes(num_classes))
    training = make_training(num_classes=num_classes)
    raw = render(manifest=manifest, labels=labels, training=training, pictures=make_pictures(labels))
    page = Page(raw)
    assert (b'class="matrix' in raw) == (num_classes <= 30)
    assert ("Least often right" in page.text) == (num_classes > 30)
    assert set(labels) <= {text.strip() for text in page.texts}, "the accuracy of every class is there"
    assert ("there is no top-5 error" in page.text) == (num_classes <= 5)
    assert not re.search(r"\bnan\b|NaN|\binf|None|Undefined", page.text)


def test_the_most_confused_pairs_come_first_where_the_classes_are_many() -> None:
    matrix = np.diag(np.full(40, 50))
    matrix[7, 9], matrix[3, 4] = 17, 5
    labels = [f"class {number}" for number in range(40)]
    training = make_training(confusion=tuple(tuple(row) for row in matrix.tolist()))
    manifest = make_manifest(architecture_by_name("tiny").with_num_classes(40))
    text = Page(render(manifest=manifest, labels=labels, training=training)).text
    assert re.search(r"class 7 class 9 17 25\.4 % class 3 class 4 5 9\.1 %", text)
    assert re.search(r"Least often right class 7 74\.6 % class 3 90\.9 %", text)


def test_unknown_training_is_said_and_nothing_is_drawn() -> None:
    page = Page(render(training=None))
    assert "How these weights were trained is not known." in page.text
    assert "Recipe" not in page.text


def test_training_that_stopped_before_its_first_epoch_renders() -> None:
    training = make_training(num_epochs=0, interrupted=True, confusion=(), best_epoch=0)
    text = Page(render(training=training)).text
    assert "after 0 of 8 epochs" in text
    assert "No epoch was finished" in text
    assert "No confusion matrix was recorded." in text


def test_one_epoch_renders() -> None:
    text = Page(render(training=make_training(num_epochs=1))).text
    assert "over 1 epoch " in text
    assert "epoch 1, whose weights these are" in text


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_training_that_went_astray_renders(value: float) -> None:
    record = make_training(num_epochs=3)
    epochs = tuple(msgspec.structs.replace(epoch, train_loss=value, validation_loss=value) for epoch in record.epochs)
    Page(render(training=msgspec.structs.replace(record, epochs=epochs)))


def test_a_class_without_pictures_has_no_accuracy() -> None:
    training = make_training(confusion=((0, 0, 0, 0), (0, 9, 1, 0), (0, 0, 0, 0), (0, 0, 0, 5)))
    text = Page(render(training=training)).text
    assert "14 of 15 validation pictures right" in text
    assert "90.0 %" in text
    assert "–" in text


def test_pictures_that_were_left_out_are_named() -> None:
    text = Page(render(training=make_training(excluded={"umbrella/torn.jpg": "truncated"}))).text
    assert "umbrella/torn.jpg truncated" in text


def test_a_failed_comparison_is_the_verdict() -> None:
    failure = "a probability is off by 0.0024, over 1e-05"
    rows = (parity_row(), parity_row("openvino", max_error=2.4e-3, failures=(failure,)))
    text = Page(render(manifest=make_manifest(parity=rows))).text
    assert "does not say what the trained network says: 1 of 2 comparisons failed." in text
    assert failure in text
    assert "This engine says" not in text


def test_nan_fails_even_where_no_failure_was_noted() -> None:
    text = Page(render(manifest=make_manifest(parity=(parity_row(max_error=float("nan")),)))).text
    assert "1 of 1 comparison failed" in text
    assert "NaN" in text
    assert "passed" not in text


def test_nothing_measured_is_nothing_proved() -> None:
    text = Page(render(manifest=make_manifest(parity=()))).text
    assert "Nothing is proved yet" in text
    assert "This engine says" not in text


def test_other_pictures_than_the_golden_ones_are_counted_once() -> None:
    given = parity_row(pictures="12 given", num_images=12)
    rows = (parity_row(), given, parity_row("openvino"), msgspec.structs.replace(given, backend="openvino"))
    text = Page(render(manifest=make_manifest(parity=rows))).text
    assert "over 8 golden pictures and 12 pictures on 2 engines" in text


@pytest.mark.parametrize("multiple", [0.4, 0.0, float("nan")])
def test_a_fault_that_the_numbers_let_through_is_flagged(multiple: float) -> None:
    text = Page(render(manifest=make_manifest(separation=SEPARATION | {"LRN alpha times 5": multiple}))).text
    assert "LRN alpha times 5: not caught by the numbers" in text
    assert "mean dropped: not caught" not in text


def test_a_fault_that_is_only_just_caught_is_flagged() -> None:
    text = Page(render(manifest=make_manifest(separation={"crop off by one": 3.2}))).text
    assert "crop off by one: caught, but by less than ten times" in text


@pytest.mark.parametrize("separation", [{}, {"mean dropped": float("inf")}, {"mean dropped": 1e30}])
def test_any_separation_renders(separation: dict[str, float]) -> None:
    raw = render(manifest=make_manifest(separation=separation))
    places = [float(place) for place in re.findall(r"(?:left|width): (?:max\(2px, )?([-.\d]+)%", raw.decode())]
    assert places
    assert all(0 <= place <= 100 for place in places)


def test_right_and_wrong_guesses_are_marked() -> None:
    text = Page(render(pictures=make_pictures())).text
    assert "✓ container ship" in text
    assert "✗ is hot-air balloon" in text
    assert text.count("✓") + text.count("✗") == 2, "a picture of unknown truth is neither"


def test_names_cannot_become_markup() -> None:
    evil = '<script>alert("1")</script>\'&$x^$\N{CJK UNIFIED IDEOGRAPH-732B}'
    labels = (evil, *LABELS[1:])
    training = make_training(data=evil, device=evil, recipe={evil: evil, "epochs": 8}, excluded={evil: "truncated"})
    picture = Picture(caption=evil, image=IMAGES[0], guesses=((evil, 1.0),), truth=evil)
    manifest = make_manifest(separation={evil: 0.1}, parity=(parity_row(evil, failures=(evil,)),))
    raw = render(name=evil, manifest=manifest, labels=labels, training=training, pictures=[picture])
    page = Page(raw)
    assert "script" not in page.tags
    assert b"<script" not in raw
    assert b'"1"' not in raw
    assert evil in "".join(page.texts)


def test_a_file_name_that_is_no_unicode_renders() -> None:
    picture = Picture(caption="bad-\udcff.jpg", image=IMAGES[0], guesses=(), truth="umbrella")
    assert b"bad-?.jpg" in render(pictures=[picture])


@pytest.mark.parametrize("image", [np.zeros((227, 227, 3), np.uint8), np.zeros((256, 256, 3), np.float32)])
def test_an_image_that_no_engine_takes_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 \\(256, 256, 3\\) is needed"):
        Picture(caption="a.jpg", image=image, guesses=(), truth=None)


@pytest.mark.parametrize("name", ["paper", "original", "caffenet", "torchvision"])
def test_every_layer_of_the_table_is_there_with_its_cost(name: str) -> None:
    architecture = architecture_by_name(name)
    labels = [f"class {number}" for number in range(1000)]
    raw = render(manifest=make_manifest(architecture), labels=labels, training=None, pictures=[])
    text = Page(raw).text
    for cost in architecture.costs():
        assert cost.layer.name in text
        assert not cost.num_parameters or f"{cost.num_parameters:,}" in text
    assert f"{architecture.num_multiply_adds:,}" in text
