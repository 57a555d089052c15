"""The section about confidence: its diagram agrees with the numbers, and it is there only if there is a record."""

import msgspec
import numpy as np
import pytest
from report_pages import Page, check_self_contained, make_images, make_manifest, render

from alexnet_deploy.core.confidence.record import Confidence
from alexnet_deploy.core.confidence.reliability import reliability
from alexnet_deploy.report.figures.reliability import RELIABILITY_SIZE, confidence_part, reliability_chart
from alexnet_deploy.report.wording import percent

CONFIDENCES = np.array([0.95, 0.95, 0.95, 0.95, 0.6])
IS_RIGHT = np.array([True, False, True, False, True])


def record(*, is_validation: bool = False) -> Confidence:
    return Confidence(
        temperature=1.8432,
        half_temperatures=(1.79, 1.91),
        num_images=5,
        images_sha256="cd34" * 16,
        is_validation=is_validation,
        before=reliability(CONFIDENCES, IS_RIGHT),
        after=reliability(np.array([0.7, 0.7, 0.7, 0.7, 0.55]), IS_RIGHT),
        loss_before=0.9,
        loss_after=0.7,
        num_changed=2,
    )


def test_each_interval_with_images_is_a_dot_at_its_confidence_and_accuracy() -> None:
    chart = reliability_chart("Before", reliability(CONFIDENCES, IS_RIGHT))
    rare, common = chart.dots
    assert (common.x, common.y) == (round(0.95 * RELIABILITY_SIZE, 1), RELIABILITY_SIZE / 2)
    assert (rare.x, rare.y) == (round(0.6 * RELIABILITY_SIZE, 1), 0)
    # The area is the number of images: a quarter of it is half the radius.
    assert rare.radius == pytest.approx(common.radius / 2, abs=0.1)
    for dot in chart.dots:
        assert 0 <= dot.high <= dot.y <= dot.low <= RELIABILITY_SIZE
        assert dot.high < dot.low


def test_the_page_states_the_temperature_and_both_errors() -> None:
    page = render(manifest=msgspec.structs.replace(make_manifest(), confidence=record()), images=make_images())
    check_self_contained(page)
    text = Page(page).text
    # Before: |0.5 - 0.95| for four images of five, and |1 - 0.6| for one. After: 0.2 and 0.45.
    for words in (
        "1.843",
        "1.790 and 1.910 on each half",
        percent(0.44),
        percent(0.25),
        "0.900 \u2192 0.700",
        "cd34cd34cd34",
        "on labelled",
    ):
        assert words.replace("\xa0", " ") in text
    assert Page(page).tags.count("circle") - Page(render(images=make_images())).tags.count("circle") == 4
    known = render(manifest=msgspec.structs.replace(make_manifest(), confidence=record(is_validation=True)))
    assert "validation images of the training, which chose its best epoch too" in Page(known).text


def test_a_bundle_whose_confidence_was_not_calibrated_has_no_such_section() -> None:
    assert confidence_part(make_manifest()) is None
    assert "Calibration error" not in Page(render()).text
