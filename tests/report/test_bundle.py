"""The parity report: complete, self-contained, safe, and consistent with the numbers."""

import re

import msgspec
import numpy as np
import pytest
from report_pages import (
    IMAGES,
    LABELS,
    SEPARATION,
    Page,
    check_self_contained,
    make_images,
    make_manifest,
    make_training,
    parity_row,
    render,
)

from alexnet_deploy.core.model.family import architecture_by_name
from alexnet_deploy.core.model.preprocessing import DECODING, RESIZE_FILTER
from alexnet_deploy.core.model.weights import TrainingRecord
from alexnet_deploy.report.page import Thumbnail
from alexnet_deploy.report.training import Confusion, training_part


def render_all() -> bytes:
    return render(training=make_training(), images=make_images())


def test_the_verdict_and_the_facts_stand_in_the_page() -> None:
    text = Page(render()).text
    verdict = (
        "This engine agrees with the trained network: max error 2.4e-7 over 8 golden images "
        "on 2 engines, tolerance 1e-5."
    )
    assert verdict in text
    for fact in ("drawn-fp32.bundle", "tiny", "ab12ab12ab12", "2025-11-20 22:51 UTC", "809,572", "620.3 million"):
        assert fact in text
    assert "they do not prove who published it" in text
    assert RESIZE_FILTER not in text
    known = msgspec.structs.replace(make_manifest(), decoding=DECODING)
    assert RESIZE_FILTER in Page(render(manifest=known)).text


def test_the_page_needs_nothing_but_itself() -> None:
    check_self_contained(render_all())


def test_the_same_input_gives_the_same_bytes() -> None:
    assert render_all() == render_all()


@pytest.mark.parametrize(
    ("num_classes", "name"), [(2, "tiny"), (4, "tiny"), (30, "tiny"), (31, "tiny"), (1000, "paper")]
)
def test_any_number_of_classes_renders(num_classes: int, name: str) -> None:
    labels = [f"class {number}" for number in range(num_classes)]
    manifest = make_manifest(architecture_by_name(name).with_num_classes(num_classes))
    training = make_training(num_classes=num_classes)
    raw = render(manifest=manifest, labels=labels, training=training, images=make_images(labels))
    page = Page(raw)
    assert (b'class="matrix' in raw) == (num_classes <= 30)
    assert ("Lowest recall" in page.text) == (num_classes > 30)
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
    assert re.search(r"Lowest recall class 7 74\.6 % class 3 90\.9 %", text)


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    # cat: 8 of 10 correct, of 9 predictions; dog: 3 of 4, of 5; eel: never predicted.
    training = make_training(confusion=((8, 2, 0), (1, 3, 0), (0, 0, 0)))
    (cat, dog, eel) = confusion_of(training, ("cat", "dog", "eel")).scores
    assert cat.f1 == pytest.approx(2 * (8 / 9) * (8 / 10) / (8 / 9 + 8 / 10))
    assert dog.f1 == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    assert (eel.accuracy, eel.f1) == (None, None)
    assert confusion_of(training, ("cat", "dog", "eel")).macro_f1 is None
    never = make_training(confusion=((10, 0), (4, 0)))
    found = confusion_of(never, ("cat", "dog"))
    assert [score.f1 for score in found.scores] == [pytest.approx(20 / 24), 0.0]
    assert found.macro_f1 == pytest.approx(10 / 24)


@pytest.mark.parametrize("num_classes", [2, 40])
def test_the_report_has_each_classs_f1_and_their_mean(num_classes: int) -> None:
    matrix = np.diag(np.full(num_classes, 3))
    matrix[0, 1] = 1
    labels = [f"class {number}" for number in range(num_classes)]
    training = make_training(confusion=tuple(tuple(row) for row in matrix.tolist()))
    manifest = make_manifest(architecture_by_name("tiny").with_num_classes(num_classes))
    text = Page(render(manifest=manifest, labels=labels, training=training)).text
    # Class 0: three of four correct, of three predictions; class 1: all three correct, of four predictions.
    mean = {2: "85.7", 40: "99.3"}[num_classes]
    assert f"Macro F1: {mean} %." in text
    assert re.search(r"class 0 3 1 75\.0 % 85\.7 %" if num_classes == 2 else r"class 0 75\.0 %, F1 85\.7 %", text)


def confusion_of(training: TrainingRecord, labels: tuple[str, ...]) -> Confusion:
    found = training_part(training, labels).confusion
    assert found is not None
    return found


def test_unknown_training_is_said_and_nothing_is_drawn() -> None:
    page = Page(render(training=None))
    assert "These weights have no training record." in page.text
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
    assert "epoch 1, the source of these weights" in text


def test_a_class_without_images_has_no_accuracy() -> None:
    training = make_training(confusion=((0, 0, 0, 0), (0, 9, 1, 0), (0, 0, 0, 0), (0, 0, 0, 5)))
    text = Page(render(training=training)).text
    assert "14 of 15 validation images correct" in text
    assert "90.0 %" in text
    assert "–" in text


def test_images_that_were_left_out_are_named() -> None:
    text = Page(render(training=make_training(excluded={"umbrella/torn.jpg": "truncated"}))).text
    assert "umbrella/torn.jpg truncated" in text


def test_what_was_noticed_and_every_kind_of_setting_is_told() -> None:
    recipe = {
        "epochs": 8,
        "learning_rate": 1e-05,
        "compile": True,
        "nesterov": False,
        "milestones": (3, 5),
        "none": (),
    }
    text = Page(render(training=make_training(recipe=recipe, remarks=("the loss stands still; try less",)))).text
    assert "The loss stands still; try less." in text
    found = re.search(r"Recipe(.*)Data and run", text, flags=re.DOTALL)
    assert found is not None
    words = " ".join(found[1].split())
    assert words == "Epochs 8 Learning rate 1e-05 Compile yes Nesterov no Milestones 3, 5 None none"


def test_a_failed_comparison_is_the_verdict() -> None:
    failure = "a probability is off by 0.0024, over 1e-05"
    rows = (parity_row(), parity_row("openvino", max_error=2.4e-3, failures=(failure,)))
    text = Page(render(manifest=make_manifest(parity=rows))).text
    assert "This engine disagrees with the trained network: 1 of 2 comparisons failed." in text
    assert failure in text
    assert "This engine agrees" not in text


def test_nan_fails_even_where_no_failure_was_noted() -> None:
    text = Page(render(manifest=make_manifest(parity=(parity_row(max_error=float("nan")),)))).text
    assert "1 of 1 comparison failed" in text
    assert "NaN" in text
    assert "passed" not in text


def test_numbers_are_two_digits_and_end_with_one() -> None:
    row = parity_row(max_log_error=12.3, p99_error=0.1, failures=("a log-probability is off by 12.3",))
    assert " 0.10 12 " in Page(render(manifest=make_manifest(parity=(row,)))).text


def test_nothing_measured_is_nothing_proved() -> None:
    text = Page(render(manifest=make_manifest(parity=()))).text
    assert "Not proved yet" in text
    assert "This engine agrees" not in text


def test_other_images_than_the_golden_ones_are_counted_once() -> None:
    given = parity_row(images="12 given", num_images=12)
    rows = (parity_row(), given, parity_row("openvino"), msgspec.structs.replace(given, backend="openvino"))
    text = Page(render(manifest=make_manifest(parity=rows))).text
    assert "over 8 golden images and 12 images on 2 engines" in text


@pytest.mark.parametrize("multiple", [0.4, 0.0, float("nan")])
def test_a_fault_that_the_numbers_let_through_is_flagged(multiple: float) -> None:
    text = Page(render(manifest=make_manifest(separation=SEPARATION | {"LRN alpha times 5": multiple}))).text
    assert "LRN alpha times 5: not detected by the golden images" in text
    assert "mean dropped: not detected" not in text


def test_a_fault_that_is_only_just_caught_is_flagged() -> None:
    text = Page(render(manifest=make_manifest(separation={"crop off by one": 3.2}))).text
    assert "crop off by one: detected, but at less than ten times" in text


@pytest.mark.parametrize("separation", [{}, {"mean dropped": float("inf")}, {"mean dropped": 1e30}])
def test_any_separation_renders(separation: dict[str, float]) -> None:
    raw = render(manifest=make_manifest(separation=separation))
    places = [float(place) for place in re.findall(r"(?:left|width): (?:max\(2px, )?([-.\d]+)%", raw.decode())]
    assert places
    assert all(0 <= place <= 100 for place in places)


def test_right_and_wrong_guesses_are_marked() -> None:
    text = Page(render(images=make_images())).text
    assert "✓ container ship" in text
    assert "✗ label: hot-air balloon" in text
    assert text.count("✓") + text.count("✗") == 2, "an image without a label is neither"


def test_names_cannot_become_markup() -> None:
    evil = '<script>alert("1")</script>\'&$x^$\N{CJK UNIFIED IDEOGRAPH-732B}'
    labels = (evil, *LABELS[1:])
    training = make_training(data=evil, device=evil, recipe={evil: evil, "epochs": 8}, excluded={evil: "truncated"})
    image = Thumbnail(caption=evil, image=IMAGES[0], predictions=((evil, 1.0),), truth=evil)
    manifest = make_manifest(separation={evil: 0.1}, parity=(parity_row(evil, failures=(evil,)),))
    raw = render(name=evil, manifest=manifest, labels=labels, training=training, images=[image])
    page = Page(raw)
    assert "script" not in page.tags
    assert b"<script" not in raw
    assert b'"1"' not in raw
    assert evil in "".join(page.texts)


def test_a_file_name_that_is_no_unicode_renders() -> None:
    image = Thumbnail(caption="bad-\udcff.jpg", image=IMAGES[0], predictions=(), truth="umbrella")
    assert b"bad-?.jpg" in render(images=[image])


@pytest.mark.parametrize("image", [np.zeros((227, 227, 3), np.uint8), np.zeros((256, 256, 3), np.float32)])
def test_an_image_that_no_engine_takes_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="image must be uint8 \\(256, 256, 3\\), got "):
        Thumbnail(caption="a.jpg", image=image, predictions=(), truth=None)


@pytest.mark.parametrize("name", ["paper", "original", "caffenet", "torchvision"])
def test_every_layer_of_the_table_is_there_with_its_cost(name: str) -> None:
    architecture = architecture_by_name(name)
    labels = [f"class {number}" for number in range(1000)]
    raw = render(manifest=make_manifest(architecture), labels=labels, training=None, images=[])
    text = Page(raw).text
    for cost in architecture.costs():
        assert cost.layer.name in text
        assert not cost.num_parameters or f"{cost.num_parameters:,}" in text
    assert f"{architecture.num_multiply_adds:,}" in text
