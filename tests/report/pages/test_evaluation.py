"""The page of an evaluation: self-contained, complete, and hostile names stay text."""

import numpy as np
import pytest
from report_pages import IMAGES, Page, check_self_contained

from alexnet_deploy.core.confidence.reliability import CoveragePoint, coverage_curve, reliability
from alexnet_deploy.report.figures.coverage import coverage_chart
from alexnet_deploy.report.page import Thumbnail
from alexnet_deploy.report.pages.evaluation import Details, ShownRow, render_evaluation

HOSTILE = "<img src=x onerror=alert(1)>"
NAN = float("nan")


def row(name: str = "a.bundle", *, top1: float | None = 0.6, gain: tuple[float, float] = (-1.0, 1.0)) -> ShownRow:
    return ShownRow(
        bundle=name,
        precision="fp32",
        engine="openvino 2026.4.1",
        arithmetic="float32",
        top1=top1,
        top1_interval=(0.55, 0.65),
        difference_points=sum(gain) / 2,
        difference_interval=gain,
        top5=0.9,
        ece=0.0414,
        p50_ms=12.3,
        p99_ms=15.0,
        images_per_second=48.6,
        size_bytes=3_250_000,
        reason="" if top1 is not None else "tensorrt is not installed",
    )


def details(labels: tuple[str, ...] = ("cats", "dogs"), *, wrong: bool = True) -> Details:
    confidences = np.array([0.6, 0.7, 0.8, 0.9])
    hits = np.array([True, False, True, True]) if wrong else np.ones(4, dtype=bool)
    return Details(
        labels=labels,
        confusion=[[2, 1], [0, 1]] if wrong else [[2, 0], [0, 2]],
        reliability=reliability(confidences, hits),
        curve=coverage_curve(confidences, hits),
        at_thresholds=(CoveragePoint(threshold=0.8, coverage=0.5, accuracy=1.0),),
        errors=(
            Thumbnail(
                caption=HOSTILE, image=IMAGES[0], predictions=((labels[1], 0.7), (labels[0], 0.3)), truth=labels[0]
            ),
        )
        if wrong
        else (),
        num_errors=int(wrong),
    )


def page_of(*rows: ShownRow, shown: Details | None = None) -> bytes:
    return render_evaluation(
        data="pictures", num_images=4, processor="a CPU", rows=rows, details=shown, tools={"python": "3.11"}
    )


def test_the_page_is_self_contained_and_says_what_was_measured() -> None:
    page = page_of(row(), row("b.bundle", gain=(-4.0, -1.0)), shown=details())
    check_self_contained(page)
    text = Page(page).text
    assert "a.bundle on openvino 2026.4.1: top-1 60.0 %" in text
    assert "Other rows: 1 lower." in text
    assert "3 of 4 images correct by the first row that ran" in text
    assert "0.8 50.0 % 100 %" in text
    assert "0.0414" in text
    assert page == page_of(row(), row("b.bundle", gain=(-4.0, -1.0)), shown=details())


def test_hostile_names_and_labels_stay_text() -> None:
    page = page_of(row(HOSTILE), shown=details((HOSTILE, "dogs")))
    check_self_contained(page)
    assert b"<img src=x" not in page
    assert HOSTILE in Page(page).text


def test_an_engine_that_failed_has_its_reason() -> None:
    text = Page(page_of(row(), row("b.bundle", top1=None), shown=details(wrong=False))).text
    assert "tensorrt is not installed" in text
    assert "1 row failed." in text
    assert "All images are predicted correctly." in text
    assert "No engine ran." in Page(page_of(row(top1=None))).text


@pytest.mark.parametrize("number", [1, 1000])
def test_a_curve_of_any_length_is_drawn(number: int) -> None:
    curve = coverage_curve(np.linspace(0, 1, number), np.ones(number, dtype=bool))
    assert coverage_chart(curve).lines[0].path.count("L") <= 400
