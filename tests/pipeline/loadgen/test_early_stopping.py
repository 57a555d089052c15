"""The rule of early stopping: the load generator's own counts, and scipy's binomial distribution as referee."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from alexnet_deploy.pipeline.loadgen.early_stopping import percentile_bound, rank_of_estimate, runs_needed


@pytest.mark.parametrize(("percentile", "needed"), [(0.9, 64), (0.95, 130), (0.99, 662)])
def test_a_percentile_needs_as_many_runs_as_in_the_load_generator(percentile: float, needed: int) -> None:
    assert runs_needed(percentile) == needed
    assert rank_of_estimate(needed - 1, percentile) == 0


def test_the_rank_is_that_of_a_run_of_the_load_generator() -> None:
    # Its words about 846 queries: "Would discard 63 highest latency queries".
    assert rank_of_estimate(846, 0.9) == 64


@given(st.integers(1, 3000), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_rank_is_the_largest_that_keeps_the_confidence(num_runs: int, percentile: float) -> None:
    rank = rank_of_estimate(num_runs, percentile)
    assert rank == 0 or binom.cdf(rank, num_runs, 1 - percentile) <= 0.01 + 1e-12
    assert rank == num_runs or binom.cdf(rank + 1, num_runs, 1 - percentile) > 0.01 - 1e-12


@given(st.permutations(range(1000)))
def test_the_bound_is_that_latency_whatever_the_order(order: list[int]) -> None:
    assert percentile_bound(order, 0.99) == 1000 - rank_of_estimate(1000, 0.99)
    assert percentile_bound(order[:661], 0.99) is None
