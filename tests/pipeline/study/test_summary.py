"""From the scores of runs to a verdict and its words: missed targets, bounds, and a base that guesses."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from studies import STUDY, pack_header, request_of, write_study

from alexnet_deploy.pipeline.study.plan import Plan, draft, every_run, plan_of
from alexnet_deploy.pipeline.study.results.files import _result_cells
from alexnet_deploy.pipeline.study.results.summary import Facts, Row, StudyResult, result_of, rows_of
from alexnet_deploy.pipeline.study.running.scores import CurvePoint, RunScore

EPOCHS = STUDY.replace(
    "[[variants]]", 'metric = "epochs"\ntarget = { of = "error", share = 0.25 }\n[[variants]]'
).replace('expect = "lower"', 'expect = "higher"')

FAST, FASTER, SLOW = [0.25], [0.5, 0.25], [0.5] * 7 + [0.25]
LATE, STOPPED = [0.5] * 10, [0.5] * 2


def score(errors: Sequence[float], num_right: int) -> RunScore:
    return RunScore(
        weights_sha256="",
        best_epoch=1,
        curve=tuple(CurvePoint(learning_rate=0.1, train_loss=1.0, loss=1.0, error=error) for error in errors),
        num_images=100,
        num_right={"center": num_right, "ten": num_right},
        precisions={},
        confusion=((0, 0), (0, 0)),
        misses=(),
    )


def judged(
    folder: Path,
    text: str,
    base: Sequence[Sequence[float]],
    variant: Sequence[Sequence[float]],
    right: tuple[Sequence[int], Sequence[int]] = ((50, 50), (50, 50)),
) -> tuple[Plan, tuple[Row, ...], StudyResult]:
    """Return the rows and the result of two seeds with these errors by epoch, and these correct predictions."""
    request = request_of(write_study(folder, text), folder, seeds=2)
    plan = plan_of(draft(request), request, pack_header(), threads=1)
    curves, rights = {"base": base, "no-lrn": variant}, {"base": right[0], "no-lrn": right[1]}
    runs = every_run(plan)
    scores = {run.folder: score(curves[run.variant][run.seed], rights[run.variant][run.seed]) for run in runs}
    rows, error = rows_of(plan, runs, scores)
    return plan, rows, result_of(plan, rows, error, Facts(data_sha256="", class_names=("blue", "red"), tools={}))


@pytest.mark.parametrize(
    ("base", "variant", "outcome", "words"),
    [
        ((FASTER, FASTER), (SLOW, SLOW), "supported", "needs 4.00 times the epochs of “base” (95 % interval 4.00"),
        ((FASTER, FASTER), (LATE, LATE), "supported", "needs at least 5.00 times the epochs of “base”"),
        ((LATE, LATE), (FASTER, FASTER), "contradicted", "needs at most 0.20 times the epochs of “base”"),
        # The variant may be slower than the base: it was only trained for two epochs.
        ((SLOW, SLOW), (STOPPED, STOPPED), "undecided", "needs at least 0.25 times the epochs of “base”"),
        # The base may be slower than the variant.
        ((STOPPED, STOPPED), (SLOW, SLOW), "undecided", "needs at most 4.00 times the epochs of “base”"),
        ((LATE, FASTER), (LATE, SLOW), "undecided", "needs 2.00 times the epochs of “base”"),
    ],
)
def test_a_run_that_did_not_reach_the_target_only_decides_for_the_larger_side(
    tmp_path: Path, base: Sequence[list[float]], variant: Sequence[list[float]], outcome: str, words: str
) -> None:
    _, _, result = judged(tmp_path, EPOCHS, base, variant)
    assert result.outcomes == (outcome,)
    assert words in result.sentence


def test_runs_that_all_missed_the_target_are_not_compared(tmp_path: Path) -> None:
    _, _, result = judged(tmp_path, EPOCHS, (LATE, LATE), (LATE, LATE))
    assert result.variants[1].comparison is None
    assert result.sentence == (
        "This data cannot decide the claim: no run of “without it” or “base” reached the target."
    )


@pytest.mark.parametrize(
    ("expect", "bound", "outcome", "words"),
    [
        ("lower", "", "supported", "2 seeds)."),
        ("lower", "bound = -1.5", "supported", "2 seeds; claimed: below −1.5)."),
        ("lower", "bound = -3.0", "contradicted", "2 seeds; claimed: below −3)."),
        ("higher", "bound = -3.0", "supported", "2 seeds; claimed: above −3)."),
    ],
)
def test_a_bound_is_a_difference_with_its_sign(
    tmp_path: Path, expect: str, bound: str, outcome: str, words: str
) -> None:
    text = STUDY.replace('expect = "lower"', f'expect = "{expect}"\n{bound}')
    _, _, result = judged(tmp_path, text, (FAST, FAST), (FAST, FAST), ((60, 62), (58, 60)))
    assert result.outcomes == (outcome,)
    assert result.sentence.endswith(words)


def test_a_base_that_guesses_gives_no_error_to_count_to(tmp_path: Path) -> None:
    _, _, result = judged(tmp_path, STUDY, (LATE, LATE), (FAST, FAST))
    assert result.error == 50.0
    assert [variant.epochs_to_error for variant in result.variants] == [None, None]


def test_only_a_study_with_a_target_says_whether_it_was_reached(tmp_path: Path) -> None:
    plan, rows, _ = judged(tmp_path, STUDY, (FAST, FAST), (FAST, FAST))
    assert {_result_cells(row, plan.study)[10] for row in rows} == {""}
    plan, rows, _ = judged(tmp_path, EPOCHS, (FAST, FAST), (LATE, FAST))
    assert [_result_cells(row, plan.study)[10] for row in rows] == ["yes", "yes", "no", "yes"]


def test_several_verdicts_are_listed_each_with_its_claim(tmp_path: Path) -> None:
    text = STUDY + '\n[[variants]]\nname = "center"\nexpect = "lower"\nviews = "center"\n'
    _, _, result = judged(tmp_path, text, (FAST, FAST), (FAST, FAST), ((60, 62), (58, 60)))
    assert result.sentence == (
        "2 comparisons: this data supports the claim for: without it; cannot decide the claim for: center."
    )
