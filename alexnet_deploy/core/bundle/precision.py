"""What a graph counts in, and how the ranges of one that counts in int8 are found: names only."""

from typing import Literal, TypeAlias

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]

Rest: TypeAlias = Literal["fp32", "fp16"]
"""What everything in an int8 graph computes in that is not in int8."""

CalibrationMethod: TypeAlias = Literal["minmax", "percentile", "entropy", "mse"]

CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = ("minmax", "percentile", "entropy", "mse")
"""`minmax`: the largest magnitude seen. `percentile`: what 99.99 % of the magnitudes stay under. `entropy`: the least
Kullback-Leibler divergence of the distribution (Migacz 2017). `mse`: the least squared error."""
