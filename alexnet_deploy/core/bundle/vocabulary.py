"""The names used in a manifest: precisions, calibration methods, libraries of plans. It imports no other module."""

from typing import Literal, TypeAlias, get_args

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]

Rest: TypeAlias = Literal["fp32", "fp16"]
"""Precision of everything in an int8 graph that is not in int8."""

CalibrationMethod: TypeAlias = Literal["minmax", "percentile", "entropy", "mse"]

CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)
"""`minmax`: the largest magnitude seen. `percentile`: the 99.99th percentile of the magnitudes. `entropy`: the smallest
Kullback-Leibler divergence of the distribution (Migacz 2017). `mse`: the smallest squared error."""

PlanBackend: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]

PLAN_BACKENDS: tuple[PlanBackend, ...] = get_args(PlanBackend)
"""The backends that run plans, fastest first."""
