"""Positions on the report's charts."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_pages import histogram_of

from alexnet_deploy.export.calibration import Histogram
from alexnet_deploy.report.charts import BOX_HEIGHT, BOX_WIDTH, LogScale, cost_chart, histogram_charts, interval_chart


def steps_of(path: str) -> list[tuple[float, float, float]]:
    """Return the left end, right end and height above the floor of each step of an outline."""
    start = re.match(r"M([\d.]+) ", path)
    assert start is not None
    assert path.endswith("Z")
    left, height, steps = float(start[1]), 0.0, []
    for command, number in re.findall(r"([HV])([\d.]+)", path):
        if command == "H":
            steps.append((left, float(number), height))
            left = float(number)
        else:
            height = BOX_HEIGHT - float(number)
    return [step for step in steps if step[2] > 0]


@given(exponent=st.floats(-9, 9), low=st.integers(-6, 0), decades=st.integers(1, 6))
def test_places_stay_on_the_scale(exponent: float, low: int, decades: int) -> None:
    scale = LogScale(low=low, high=low + decades)
    wanted = min(max((exponent - low) / decades, 0), 1)
    assert scale.place(10.0**exponent) == pytest.approx(100 * wanted, abs=0.01)


@given(st.dictionaries(st.text(max_size=3), st.floats(min_value=0), max_size=9))
def test_ends_and_named_powers_of_the_costs_are_those_of_their_scale(costs: dict[str, float]) -> None:
    chart = cost_chart(costs)
    assert (chart.ticks[0], chart.ticks[-1]) == (chart.scale.low, chart.scale.high)
    assert 2 <= len(chart.ticks) <= 7
    assert chart.lengths.keys() == costs.keys()
    ordered = sorted(costs, key=costs.__getitem__)
    assert [chart.lengths[name] for name in ordered] == sorted(chart.lengths.values())


@given(*[st.floats(-100, 100)] * 3, st.floats(0, 100))
def test_an_interval_is_drawn_true_to_scale(value: float, low: float, high: float, allowed: float) -> None:
    chart = interval_chart(value, (low, high), allowed)
    assert chart is not None
    assert 2 <= len(chart.ticks) <= 8
    assert all(0 <= place <= 100 for place in (chart.begin, chart.end, chart.value, chart.zero, chart.allowed))
    assert (chart.value < chart.allowed - 0.01) <= (value < allowed) <= (chart.value < chart.allowed + 0.02)


@pytest.mark.parametrize(
    "numbers", [(np.nan, (0, 1), 0.5), (0, (np.nan, 1), 0.5), (0, (0, np.inf), 0.5), (0, (0, 1), np.inf)]
)
def test_what_is_no_number_is_not_drawn(numbers: tuple[float, tuple[float, float], float]) -> None:
    assert interval_chart(*numbers) is None


@settings(max_examples=50)
@given(seed=st.integers(0, 99), size=st.integers(1, 5000), scale=st.floats(1e-6, 1e6), share=st.floats(0.001, 3.0))
def test_an_outline_stays_in_its_box_and_splits_at_the_range(seed: int, size: int, scale: float, share: float) -> None:
    histogram = histogram_of(np.random.default_rng(seed).exponential(scale, size))
    chart = histogram_charts({"fc6": histogram}, {"fc6": share * histogram.largest})["fc6"]
    assert chart is not None
    assert chart.edge is not None
    assert chart.edge == pytest.approx(BOX_WIDTH * min(1.0, share), abs=0.06)
    assert chart.upper == pytest.approx(max(1.0, share) * histogram.largest)
    for path, begin, end in ((chart.kept, 0.0, chart.edge), (chart.cut, chart.edge, BOX_WIDTH)):
        for left, right, height in steps_of(path) if path else []:
            assert begin - 0.1 <= left < right <= end + 0.1
            assert 0 < height <= BOX_HEIGHT
    assert bool(chart.cut) <= (share < 1)
    last = max(right for path in (chart.kept, chart.cut) if path for _, right, _ in steps_of(path))
    assert last <= 1.02 * BOX_WIDTH * histogram.largest / chart.upper + 0.1, "no bar without a count"


def test_the_largest_number_is_seen_at_the_right_end_of_a_histogram_that_doubled() -> None:
    histogram = histogram_of(np.zeros(1000))
    histogram.add(np.full(100, 1.0))
    histogram.add(np.array([5.0, 4.0]))
    assert histogram.upper == 8.0
    chart = histogram_charts({"fc6": histogram}, {"fc6": 3.0})["fc6"]
    assert chart is not None
    assert chart.upper == 5.0
    first, second = steps_of(chart.cut)
    assert first[0] <= BOX_WIDTH * 4 / 5 <= first[1]
    assert second[1] == pytest.approx(BOX_WIDTH)
    one, hundred, thousand = (height for *_, height in (first, *steps_of(chart.kept)[::-1]))
    assert hundred - one == pytest.approx(2 * (thousand - hundred), abs=0.2), "heights are logarithms of counts"


def test_heights_compare_between_layers_and_zero_layers_have_none() -> None:
    many, few = np.full(10_000, 1.0), np.full(10, 3.0)
    charts = histogram_charts(
        {"a": histogram_of(many), "b": histogram_of(few), "c": histogram_of(np.zeros(5)), "d": Histogram()}, {}
    )
    assert charts["c"] is charts["d"] is None
    assert charts["a"] is not None
    assert charts["b"] is not None
    assert charts["a"].levels == charts["b"].levels
    assert [exponent for exponent, _ in charts["a"].levels] == [0, 1, 2, 3, 4]
    (*_, high), (*_, low) = steps_of(charts["a"].kept)[-1], steps_of(charts["b"].kept)[-1]
    heights = {exponent: BOX_HEIGHT - y for exponent, y in charts["a"].levels}
    assert (low, high) == pytest.approx((heights[1], heights[4]), abs=0.2)
    assert high == BOX_HEIGHT
    assert charts["a"].edge is None
    assert charts["a"].cut == ""
