"""Means over seeds with their intervals, and the verdict on a claim.

Intervals are Student's, of 95 %: mean -+ t * s / sqrt(n) with n - 1 degrees of freedom. A comparison is paired by seed:
the interval is that of the differences, run by run. Source: Student 1908, "The probable error of a mean".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from alexnet_deploy.pipeline.study.definition import Expectation

Outcome: TypeAlias = Literal["supported", "contradicted", "undecided"]

LEVEL = 0.95
"""Coverage of the intervals."""

_MOST_HALVINGS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its interval."""

    mean: float
    interval: tuple[float, float] | None
    """None for one value: nothing is known of its spread."""


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of one value or more, with its 95 % interval."""
    number = len(values)
    mean = math.fsum(values) / number
    if number == 1:
        return Estimate(mean=mean, interval=None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (number - 1))
    margin = t_quantile((1 + LEVEL) / 2, number - 1) * deviation / math.sqrt(number)
    return Estimate(mean=mean, interval=(mean - margin, mean + margin))


def difference(values: Sequence[float], base: Sequence[float]) -> Estimate:
    """Return the mean difference to the base, paired: the value of one seed minus the base's of the same seed."""
    return estimate([value - other for value, other in zip(values, base, strict=True)])


def ratio(values: Sequence[float], base: Sequence[float]) -> Estimate:
    """Return the geometric mean of the ratios to the base, paired by seed, with its interval from their logarithms."""
    logs = difference([math.log(value) for value in values], [math.log(value) for value in base])
    return Estimate(
        mean=math.exp(logs.mean),
        interval=None if logs.interval is None else (math.exp(logs.interval[0]), math.exp(logs.interval[1])),
    )


def verdict(found: Estimate, expect: Expectation, bound: float) -> Outcome:
    """Return whether the interval lies wholly on the claimed side of the bound, wholly on the other side, or neither.

    `expect` says that the value is lower or higher than `bound`. Without an interval, nothing is decided.
    """
    if found.interval is None:
        return "undecided"
    low, high = found.interval
    if high < bound:
        return "supported" if expect == "lower" else "contradicted"
    if low > bound:
        return "supported" if expect == "higher" else "contradicted"
    return "undecided"


def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution, for a probability above 1/2, by halving intervals."""
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(_MOST_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_probability(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def t_probability(value: float, freedom: int) -> float:
    """Return the probability that Student's t with whole degrees of freedom is at most `value`, 0 or more.

    Source: Abramowitz and Stegun 1964, 26.7.3 (odd) and 26.7.4 (even).
    """
    angle = math.atan(value / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    total, term = 0.0, cosine if freedom % 2 else 1.0
    for number in range(freedom // 2):
        total += term
        step = 2 * number + (2 if freedom % 2 else 1)
        term *= step / (step + 1) * cosine**2
    inside = 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total
    return (1 + inside) / 2
