"""How many runs a percentile needs: the rule of early stopping of MLPerf's load generator.

The estimate is the t-th largest of n latencies, t as large as possible while the probability that at most t of n runs
exceed the true percentile is 1 % or less. It is then, with 99 % confidence, not below the true percentile. Source:
MLPerf Inference, loadgen/early_stopping.cc. By this rule a p99 needs 662 runs.
"""

import math
from collections.abc import Sequence

CONFIDENCE = 0.99


def rank_of_estimate(num_runs: int, percentile: float) -> int:
    """Return t for a percentile, 0..1: the estimate is the t-th largest latency; 0 if there are too few runs."""
    tail = 1 - percentile
    # The binomial distribution of the number of runs above the percentile, summed from 0 upwards.
    log_term = num_runs * math.log1p(-tail)
    total = math.exp(log_term)
    for rank in range(1, num_runs + 1):
        log_term += math.log((num_runs - rank + 1) / rank) + math.log(tail) - math.log1p(-tail)
        total += math.exp(log_term)
        if total > 1 - CONFIDENCE:
            return rank - 1
    return num_runs


def runs_needed(percentile: float) -> int:
    """Return the smallest number of runs from which a percentile, 0..1, can be estimated."""
    low, high = 1, 1
    while not rank_of_estimate(high, percentile):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if rank_of_estimate(middle, percentile) else (middle + 1, high)
    return high


def percentile_bound(latencies: Sequence[float], percentile: float) -> float | None:
    """Return an upper estimate of a percentile, 0..1, with 99 % confidence; None if there are too few runs."""
    rank = rank_of_estimate(len(latencies), percentile)
    return sorted(latencies)[-rank] if rank else None
