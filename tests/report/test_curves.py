"""Where things are on the curves of a training."""

import math
import re
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_pages import Page, make_training, render

from alexnet_deploy.core.model.weights import TrainingRecord
from alexnet_deploy.report.curves import CURVE_HEIGHT, CURVE_WIDTH, CurveChart, training_curves

NUMBERS = st.floats(1e-6, 1e6) | st.floats(0.0, 1e299) | st.sampled_from([math.inf, math.nan, 1.7e308])


def training_of(**values: Sequence[float]) -> TrainingRecord:
    """A training with these values of its epochs; the best is the last."""
    (num_epochs,) = {len(given) for given in values.values()}
    record = make_training(num_epochs=num_epochs)
    epochs = (
        msgspec.structs.replace(epoch, **{name: given[place] for name, given in values.items()})
        for place, epoch in enumerate(record.epochs)
    )
    return msgspec.structs.replace(record, epochs=tuple(epochs))


def is_number(value: float) -> bool:
    """Whether a value has a place on a scale."""
    return value < 1e300


def numbers_in(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", path)]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_lines_stay_in_their_box_and_have_gaps_where_there_is_no_number(losses: list[tuple[float, float]]) -> None:
    train, validation = zip(*losses, strict=True)
    chart = training_curves(training_of(train_loss=train, validation_loss=validation), 4).loss
    other, main = chart.lines
    assert (other.is_main, main.is_main) == (False, True)
    for line, values in ((other, train), (main, validation)):
        points = list(zip(*[iter(numbers_in(line.path))] * 2, strict=True))
        assert len(points) == sum(map(is_number, values))
        assert all(0 <= x <= CURVE_WIDTH and 0 <= y <= CURVE_HEIGHT for x, y in points)
        is_shown = "".join("x" if is_number(value) else " " for value in values)
        assert line.path.count("M") == len(is_shown.split())
        assert line.dots == (tuple(points) if len(losses) <= 12 else ())
        # Larger losses are higher.
        heights = [-y for _, y in points]
        ordered = sorted(range(len(heights)), key=[value for value in values if is_number(value)].__getitem__)
        assert [heights[place] for place in ordered] == sorted(heights)
    assert chart.best is not None
    assert (chart.mark is None) == (not is_number(validation[-1]))
    assert 1 <= len(chart.places) <= 7
    assert all(0 <= place <= CURVE_HEIGHT for _, place in chart.levels)


@pytest.mark.parametrize(
    ("rates", "named"),
    [
        ([0.02] * 5 + [0.002] * 3, ["0.002", "0.02"]),
        ([0.008, 0.016, *[0.02] * 6], ["0", "0.005", "0.01", "0.015", "0.02"]),
        (
            [0.02 * (1 + np.cos(np.pi * (n + 0.5) / 8)) / 2 for n in range(8)],
            ["0", "0.005", "0.01", "0.015", "0.02"],
        ),
    ],
)
def test_divided_rates_are_named_and_slopes_begin_at_zero(rates: list[float], named: list[str]) -> None:
    chart = training_curves(training_of(learning_rate=rates), 4).rate
    assert [name for name, _ in chart.levels] == named
    # Steps from edge to edge, one an epoch.
    (line,) = chart.lines
    assert line.path.startswith("M0 ")
    assert line.path.endswith("H212")
    assert line.path.count("H") == 8


def test_a_loss_that_falls_far_is_on_a_logarithmic_scale() -> None:
    def loss_of(*values: float) -> CurveChart:
        return training_curves(training_of(train_loss=values, validation_loss=values), 4).loss

    assert [name for name, _ in loss_of(2.0, 0.5, 0.1).levels] == ["0", "0.5", "1", "1.5", "2"]
    (_, high), (_, middle), (_, low) = levels = loss_of(20.0, 2.0, 0.1).levels[::-1]
    assert [name for name, _ in levels] == ["10", "1", "0.1"]
    assert middle - high == pytest.approx(low - middle, abs=0.2)


def test_errors_are_in_per_cent_and_top_5_has_a_line_where_it_says_something() -> None:
    training = training_of(validation_top1=[0.6, 0.75], validation_top5=[0.9, 0.95])
    few, many = training_curves(training, 5).error, training_curves(training, 6).error
    assert [line.is_main for line in few.lines] == [True]
    assert [line.is_main for line in many.lines] == [False, True]
    assert few.lines[-1] == many.lines[-1]
    assert [name for name, _ in few.levels] == ["0 %", "10 %", "20 %", "30 %", "40 %"]
    ((_, first), (_, second)) = few.lines[0].dots
    assert (CURVE_HEIGHT - first) / (CURVE_HEIGHT - second) == pytest.approx(40 / 25, rel=0.01)


def test_the_best_epoch_is_marked_on_each_chart() -> None:
    curves = training_curves(make_training(best_epoch=3), 4)
    for chart in (curves.loss, curves.error, curves.rate):
        place = dict(chart.places).get("3", CURVE_WIDTH * 2.5 / 8)
        assert chart.best == pytest.approx(place, abs=0.1)
        assert chart.mark is not None
        assert chart.mark[0] == chart.best
    assert training_curves(make_training(best_epoch=0), 4).loss.best is None


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_training_that_went_astray_renders(value: float) -> None:
    rates = [0.02] * 5 + [0.002, 0.002, value]
    raw = render(
        training=training_of(train_loss=[value] * 8, validation_loss=[value] * 8, learning_rate=rates)
    ).decode()
    assert "Validation error" in Page(raw.encode()).text
    charts = re.findall(r'<svg viewBox="-42.*?</svg>', raw, flags=re.DOTALL)
    assert len(charts) == 3
    assert not re.search(r"nan|inf", "".join(charts))


def test_the_page_draws_with_the_colours_of_its_scheme() -> None:
    raw = render(training=make_training()).decode()
    charts = re.findall(r'<svg viewBox="-42.*?</svg>', raw, flags=re.DOTALL)
    assert len(charts) == 3
    for chart in charts:
        assert not re.search(r"(?:fill|stroke|style)=|#[0-9a-f]{3}", chart)
        assert 'class="line main"' in chart
