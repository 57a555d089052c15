"""The names that a manifest uses: precisions, calibration methods, the libraries of plans. It imports nothing."""

from typing import Literal, TypeAlias, get_args

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]

Rest: TypeAlias = Literal["fp32", "fp16"]
"""What everything in an int8 graph computes in that is not in int8."""

CalibrationMethod: TypeAlias = Literal["minmax", "percentile", "entropy", "mse"]

CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)
"""`minmax`: the largest magnitude seen. `percentile`: what 99.99 % of the magnitudes stay under. `entropy`: the least
Kullback-Leibler divergence of the distribution (Migacz 2017). `mse`: the least squared error."""

PlanBackend: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]

PLAN_BACKENDS: tuple[PlanBackend, ...] = get_args(PlanBackend)
"""What runs plans, the fastest first."""
