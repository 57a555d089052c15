"""The page of a study: self-contained, its numbers and its verdict, curves and hostile names."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from report_pages import IMAGES, Page, check_self_contained

from alexnet_deploy.report.figures.overlay import OVERLAY_HEIGHT, Compared, Series, difference_chart, overlay_chart
from alexnet_deploy.report.page import Thumbnail
from alexnet_deploy.report.pages.study import ShownRun, ShownVariant, Spread, StudyPage, render_study

HOSTILE = '<img src=x onerror="alert(1)">'


def spread(mean: float, half: float = 1.0) -> Spread:
    return Spread(mean=mean, interval=(mean - half, mean + half))


def variant(label: str, top1: float, comparison: Spread | None = None, outcome: str = "") -> ShownVariant:
    return ShownVariant(
        label=label,
        num_parameters=1234,
        searched=None,
        center=spread(top1 - 0.5),
        ten=spread(top1),
        value=spread(top1),
        is_at_least=False,
        comparison=comparison,
        outcome=outcome,
        claimed="below 0" if outcome else "",
        sentence=f"The sentence about {label}.",
        epochs_to_error=spread(7.5),
        images_to_error=spread(7500.0),
        seconds_to_error=None,
        seconds=spread(60.0),
        remark="",
        curve=Series(name=label, places=(1000.0, 2000.0), values=((50.0, 100 - top1), (52.0, 101 - top1))),
    )


PAGE = StudyPage(
    name="lrn",
    claim="Normalisation helps.",
    source="section 3.3",
    figure="1.4 points",
    sentence="This data supports the claim.",
    holds=True,
    is_epochs=False,
    target="",
    views="ten",
    architecture="tiny",
    recipe="folder",
    searched="",
    num_train=1000,
    num_tested=600,
    is_held_out=False,
    labels=("cat", "dog"),
    seeds=(0, 1, 2),
    shrunk=(),
    error=36.5,
    quantity="Top-1 error",
    suffix=" %",
    mark=36.5,
    variants=(variant("with", 63.5), variant("without", 61.0, spread(-2.67, 0.71), "supported")),
    details=(),
    tools={"torch": "2.13.0"},
)

ERROR = Thumbnail(caption="cat/1.jpg", image=IMAGES[0], predictions=(("dog", 0.9), ("cat", 0.1)), truth="cat")


def test_the_page_has_its_numbers_and_its_verdict() -> None:
    page = render_study(PAGE)
    text = Page(page).text
    for words in (
        "This data supports the claim.",
        "Normalisation helps.",
        "1.4 points",
        "63.5 62.5 to 64.5",
        "−2.67 −3.38 to −1.96",
        "−2.67 (−3.38 to −1.96)",
        "7,500",
        "supported below 0",
        "on the claimed side of the bound under its verdict",
        "Intervals cover the seeds, not the choice of images.",
        "count to an error of 36.5 %",
        "was chosen on the tested images, so each top-1 is optimistic",
    ):
        assert words in re.sub(r"\s+", " ", text), words
    assert render_study(PAGE) == page


def test_a_ratio_is_compared_with_one() -> None:
    slow = replace(
        variant("tanh", 61.0, spread(2.5, 0.5), "supported"), value=spread(12.0), is_at_least=True, claimed="above 1×"
    )
    page = replace(PAGE, is_epochs=True, target="a training error of 25 %", variants=(PAGE.variants[0], slow))
    text = re.sub(r"\s+", " ", Page(render_study(page)).text)
    assert "2.50× (2.00 to 3.00)" in text
    assert "over 12.00" in text
    assert "supported above 1×" in text


def test_a_budget_and_held_out_images_are_said() -> None:
    page = replace(PAGE, shrunk=("2 seeds in place of 3",), is_held_out=True)
    text = re.sub(r"\s+", " ", Page(render_study(page)).text)
    assert "To fit the budget: 2 seeds in place of 3." in text
    assert "No epoch was chosen on the tested images." in text


def test_one_seed_shows_no_interval() -> None:
    alone = replace(PAGE.variants[1], comparison=Spread(mean=-2.0, interval=None), outcome="undecided")
    text = re.sub(r"\s+", " ", Page(render_study(replace(PAGE, variants=(PAGE.variants[0], alone)))).text)
    assert "−2.00 undecided" in text


def test_details_show_the_matrix_and_the_errors() -> None:
    run = ShownRun(title="two-class, seed 0", confusion=((40, 10), (5, 45)), errors=(ERROR,), num_errors=15)
    page = render_study(replace(PAGE, details=(run,)))
    check_self_contained(page)
    text = re.sub(r"\s+", " ", Page(page).text)
    assert "85 of 100 tested images correct: two-class, seed 0." in text
    assert "cat/1.jpg" in text
    assert "1 of 15 errors" in text


def test_hostile_names_stay_text() -> None:
    hostile = variant(HOSTILE, 61.0, spread(-1.0), "undecided")
    page = replace(
        PAGE, claim=HOSTILE, figure=HOSTILE, source=HOSTILE, variants=(replace(hostile, comparison=None), hostile)
    )
    rendered = render_study(
        replace(page, details=(ShownRun(title=HOSTILE, confusion=(), errors=(ERROR,), num_errors=1),))
    )
    check_self_contained(rendered)
    assert b"<img src=x" not in rendered


@pytest.mark.parametrize("number", [2, 8, 12])
def test_names_of_lines_that_end_together_do_not_overlap(number: int) -> None:
    series = [Series(name=str(n), places=(1.0, 2.0), values=((50.0, 1.0 + n / 100),)) for n in range(number)]
    chart = overlay_chart(series, suffix=" %", mark=25.0)
    heights = sorted(line.label_y for line in chart.lines)
    assert all(after - before >= 14.9 for before, after in pairwise(heights))
    assert heights[-1] <= OVERLAY_HEIGHT
    assert len({line.color for line in chart.lines}) == min(number, 8)


def test_the_mean_of_the_seeds_is_drawn_between_them() -> None:
    chart = overlay_chart(
        [Series(name="a", places=(10.0, 20.0), values=((40.0, 20.0), (60.0, 40.0)))], suffix="", mark=None
    )
    (line,) = chart.lines
    ends = [float(path.split("L")[-1].split()[1]) for path in (*line.seeds, line.mean)]
    assert ends[2] == pytest.approx((ends[0] + ends[1]) / 2, abs=0.1)
    assert line.end[1] == ends[2]


def test_differences_are_on_one_scale_with_zero() -> None:
    chart = difference_chart(
        [
            Compared(name="a", words="", outcome="", value=-2.0, interval=(-3.0, -1.0)),
            Compared(name="b", words="", outcome="", value=4.0, interval=None),
        ],
        none=0.0,
    )
    assert chart is not None
    first, second = chart.rows
    assert first.begin < first.value < first.end < chart.zero < second.value
    assert (first.is_open, second.is_open) == (False, True)
    assert (chart.zero - first.value) == pytest.approx((second.value - chart.zero) / 2, abs=0.02)
    assert difference_chart([], none=0.0) is None
