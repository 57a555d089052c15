"""A budget for runs side by side: whole runs are counted, not their sum divided by the jobs."""

import math
from pathlib import Path

import pytest
from studies import pack_header, request_of, write_study

from alexnet_deploy.core.process.say import say_nothing
from alexnet_deploy.pipeline.study.plan import draft, plan_of
from alexnet_deploy.pipeline.study.running import budget


@pytest.mark.parametrize(
    ("jobs", "shrunk"),
    [
        (1, "3 seeds in place of 4"),
        (2, "3 seeds in place of 4"),
        # Eight runs take three rounds, six take two.
        (3, "3 seeds in place of 4"),
        # Six runs take two rounds, as eight do.
        (4, "2 seeds in place of 4"),
    ],
)
def test_a_budget_counts_whole_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, shrunk: str) -> None:
    """A run takes 48 seconds, and the budget is a second too short for the eight runs of four seeds."""
    speed, sizes = budget.Speed(train=1.0 / budget._RESERVE, view=0.0), budget.Sizes(num_validation=8, num_tested=8)
    monkeypatch.setattr(budget, "_measured", lambda *arguments: (speed, sizes))
    request = request_of(write_study(tmp_path), tmp_path, seeds=4)
    plan = plan_of(draft(request), request, pack_header(), threads=1)
    seconds = 48.0 * math.ceil(8 / jobs) - 1
    assert budget.within_budget(plan, tmp_path, seconds, jobs=jobs, say=say_nothing).shrunk == (shrunk,)
