"""Intervals and verdicts against SciPy, and their laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alexnet_deploy.pipeline.study.results.statistics import (
    Estimate,
    difference,
    estimate,
    ratio,
    t_probability,
    t_quantile,
    verdict,
)

VALUES = st.lists(st.floats(0.5, 100.0), min_size=2, max_size=8)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 30, 101])
def test_the_t_distribution_is_scipys(freedom: int) -> None:
    for value in (0.0, 0.3, 1.0, 2.776, 12.0):
        assert t_probability(value, freedom) == pytest.approx(stats.t.cdf(value, freedom), rel=1e-12)
    for probability in (0.9, 0.975, 0.995):
        assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-12)


def test_the_quantiles_are_those_of_the_published_tables() -> None:
    """Of Fisher and Yates, for two-sided intervals of 95 %."""
    assert [round(t_quantile(0.975, freedom), 3) for freedom in (1, 2, 3, 4)] == [12.706, 4.303, 3.182, 2.776]


@given(VALUES)
def test_an_interval_is_scipys(values: list[float]) -> None:
    found = estimate(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.interval is not None
    spread = stats.sem(values)
    if spread > 1e-9:
        expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=spread)
        assert found.interval == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(VALUES, st.randoms(use_true_random=False))
def test_a_difference_is_paired_by_seed(values: list[float], draws: object) -> None:
    base = [value - 3.0 for value in values]
    found = difference(values, base)
    # Whatever the spread over the seeds, the difference has none.
    assert found.mean == pytest.approx(3.0)
    assert found.interval == pytest.approx((3.0, 3.0))
    expected = stats.ttest_rel([*values, 7.0], [*base, 1.0]).confidence_interval(0.95)
    assert difference([*values, 7.0], [*base, 1.0]).interval == pytest.approx((expected.low, expected.high))


def test_a_ratio_is_that_of_logarithms() -> None:
    values, base = [6.0, 12.0, 9.0], [2.0, 2.5, 3.0]
    found = ratio(values, base)
    logs = difference([math.log(value) for value in values], [math.log(value) for value in base])
    assert found.mean == pytest.approx((3.0 * 4.8 * 3.0) ** (1 / 3))
    assert found.interval is not None
    assert logs.interval is not None
    assert found.interval == pytest.approx((math.exp(logs.interval[0]), math.exp(logs.interval[1])))
    inverse = ratio(base, values)
    assert inverse.interval is not None
    assert inverse.interval == pytest.approx((1 / found.interval[1], 1 / found.interval[0]))


def test_one_seed_has_no_interval_and_decides_nothing() -> None:
    found = estimate([5.0])
    assert found.interval is None
    assert verdict(found, "higher", 0.0) == "undecided"
    assert verdict(found, "lower", 0.0) == "undecided"


@pytest.mark.parametrize(
    ("interval", "bound", "lower", "higher"),
    [
        ((-2.0, -0.1), 0.0, "supported", "contradicted"),
        ((0.1, 2.0), 0.0, "contradicted", "supported"),
        ((-0.1, 2.0), 0.0, "undecided", "undecided"),
        ((0.0, 2.0), 0.0, "undecided", "undecided"),
        ((-2.0, 0.0), 0.0, "undecided", "undecided"),
        ((-0.4, 0.2), -0.5, "contradicted", "supported"),
        ((-0.6, 0.2), -0.5, "undecided", "undecided"),
        ((1.2, 3.0), 1.0, "contradicted", "supported"),
        ((math.nan, math.nan), 0.0, "undecided", "undecided"),
    ],
)
def test_a_verdict_follows_from_the_interval(
    interval: tuple[float, float], bound: float, lower: str, higher: str
) -> None:
    found = Estimate(mean=sum(interval) / 2, interval=interval)
    assert verdict(found, "lower", bound) == lower
    assert verdict(found, "higher", bound) == higher
