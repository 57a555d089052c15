"""The results of a study: each variant over its seeds, compared with the base, and the verdict on the claim."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct

from alexnet_deploy.core.process.say import counted
from alexnet_deploy.pipeline.study.definition import BASE, Expectation, Metric, Variant, name_of
from alexnet_deploy.pipeline.study.plan import Plan, RunPlan
from alexnet_deploy.pipeline.study.results.statistics import (
    Estimate,
    Outcome,
    difference,
    estimate,
    ratio,
    verdict,
)
from alexnet_deploy.pipeline.study.running.runs import crossing, epochs_to_target
from alexnet_deploy.pipeline.study.running.scores import RunScore

FORMAT_VERSION = 1


class Interval(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mean over seeds with its 95 % interval."""

    mean: float
    low: float | None
    """None with one seed."""
    high: float | None

    @classmethod
    def of(cls, found: Estimate) -> "Interval":
        """Return it as a record of study.json."""
        low, high = (None, None) if found.interval is None else found.interval
        return cls(mean=found.mean, low=low, high=high)


class VariantResult(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A variant over the seeds; the base is the first of a study."""

    name: str
    label: str
    num_parameters: int
    num_train: int
    num_epochs: int
    searched: float | None
    """Value of the searched field, if the study has a search."""
    values: tuple[float, ...]
    """Top-1 in per cent, or epochs to the target, by seed; empty if there is none."""
    num_censored: int
    """Runs that did not reach the target: their values are their numbers of epochs, and the true ones larger."""
    value: Interval | None
    center: Interval
    """Top-1 with the centre view, in per cent."""
    ten: Interval
    """Top-1 with ten views, in per cent."""
    comparison: Interval | None
    """Difference to the base in points, or ratio of the epochs, paired by seed; None for the base, for a variant
    without a result, and if no run reached the target."""
    expect: Expectation | None
    bound: float
    outcome: Outcome | None
    """None if the claim is not about this variant."""
    sentence: str
    """The comparison in words; empty for the base."""
    epochs_to_error: Interval | None
    """Epochs to the study's error; None if a run did not reach it, or if random guessing reaches it."""
    images_to_error: Interval | None
    remark: str
    """The engine and its arithmetic, why there is no value, or that a search ended at its edge; usually empty."""


class StudyResult(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of study.json: it holds no time and no path."""

    format_version: int
    study: str
    claim: str
    source: str
    figure: str
    metric: Metric
    views: str
    target: str
    """What `epochs` counts to, in words; empty with another metric."""
    architecture: str
    recipe: str
    data_sha256: str
    class_names: tuple[str, ...]
    num_train: int
    num_tested: int
    is_held_out: bool
    """Whether no epoch was chosen on the tested images."""
    seeds: tuple[int, ...]
    threads: int
    device: str
    shrunk: tuple[str, ...]
    error: float
    """The error, in per cent, that epochs_to_error counts to: the target's, or the base's at the end of training, of
    its worst seed."""
    variants: tuple[VariantResult, ...]
    sentence: str
    """The verdict on the claim."""
    tools: dict[str, str]

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The verdict on each comparison that the claim is about."""
        return tuple(variant.outcome for variant in self.variants if variant.outcome is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant with one seed."""

    variant: Variant | None
    """None for the base."""
    seed: int
    run: RunPlan
    """The run whose weights it has."""
    score: RunScore
    value: float | None
    """Top-1 in per cent, or epochs to the target; None if there is none."""
    is_censored: bool
    epochs_to_error: float | None
    """None if the run did not reach it, or if random guessing reaches it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of the images and the program."""

    data_sha256: str
    class_names: tuple[str, ...]
    tools: dict[str, str]


def rows_of(plan: Plan, runs: Sequence[RunPlan], scores: Mapping[str, RunScore]) -> tuple[tuple[Row, ...], float]:
    """Return a row for each variant and seed, the base first, and the error that its epochs count to, in per cent."""
    by_place = {(run.variant, run.seed): run for run in runs}
    target = plan.study.target
    if target is not None and target.of == "error":
        error = target.share
    else:
        # That of the seed with the largest one: all seeds of the base reach it.
        error = max(scores[by_place[BASE, seed].folder].curve[-1].error for seed in plan.seeds)
    rows = []
    for variant in (None, *plan.study.variants):
        trained = name_of(variant if variant is None or variant.is_trained else None)
        for seed in plan.seeds:
            run = by_place[trained, seed]
            rows.append(_row(plan, variant, run, scores[run.folder], error))
    return tuple(rows), 100 * error


def _row(plan: Plan, variant: Variant | None, run: RunPlan, score: RunScore, error: float) -> Row:
    guessing = 1 - 1 / run.architecture.num_classes
    # A base that is no better than guessing gives no error to count to.
    curve = [guessing, *(point.error for point in score.curve)]
    to_error = crossing(curve, error) if error < guessing else math.inf
    value, is_censored = _value(plan, variant, run, score)
    return Row(
        variant=variant,
        seed=run.seed,
        run=run,
        score=score,
        value=value,
        is_censored=is_censored,
        epochs_to_error=to_error if math.isfinite(to_error) else None,
    )


def _value(plan: Plan, variant: Variant | None, run: RunPlan, score: RunScore) -> tuple[float | None, bool]:
    if plan.study.metric == "epochs":
        epochs = epochs_to_target(plan, run, score)
        # A run that starts beyond the target would have the logarithm of 0.
        return (max(epochs, 1e-3), False) if math.isfinite(epochs) else (float(score.num_epochs), True)
    if variant is not None and variant.precision is not None:
        num_right = score.precisions[variant.precision].num_right
    else:
        num_right = score.num_right[(variant.views if variant is not None else "") or plan.study.views]
    return (None if num_right is None else 100 * num_right / score.num_images), False


def result_of(plan: Plan, rows: Sequence[Row], error: float, facts: Facts) -> StudyResult:
    """Return the results of a study; `error` is the one that epochs_to_error counts to, in per cent."""
    base = [row for row in rows if row.variant is None]
    variants = tuple(
        _variant_result(plan, variant, [row for row in rows if row.variant is variant], base)
        for variant in (None, *plan.study.variants)
    )
    study = plan.study
    return StudyResult(
        format_version=FORMAT_VERSION,
        study=study.name,
        claim=study.claim,
        source=study.source,
        figure=study.figure,
        metric=study.metric,
        views=study.views,
        target=_target_words(plan),
        architecture=plan.tables[BASE].name,
        recipe=plan.recipes[BASE].name,
        data_sha256=facts.data_sha256,
        class_names=facts.class_names,
        num_train=plan.num_train,
        num_tested=base[0].score.num_images,
        is_held_out=study.held_out > 0,
        seeds=plan.seeds,
        threads=plan.threads,
        device=plan.asked.device,
        shrunk=plan.shrunk,
        error=error,
        variants=variants,
        sentence=_verdict_words(variants),
        tools=facts.tools,
    )


def _variant_result(plan: Plan, variant: Variant | None, rows: Sequence[Row], base: Sequence[Row]) -> VariantResult:
    values = [row.value for row in rows if row.value is not None]
    others = [row.value for row in base if row.value is not None]
    has_all = len(values) == len(rows)
    compared = None
    if variant is not None and has_all and not all(row.is_censored for row in (*rows, *base)):
        compared = (ratio if plan.study.metric == "epochs" else difference)(values, others)
    outcome = None
    if variant is not None and variant.expect is not None:
        outcome = _outcome(plan, variant, compared, rows, base)
    first = rows[0]
    reached = [row.epochs_to_error for row in rows if row.epochs_to_error is not None]
    shares = {
        name: Interval.of(estimate([100 * row.score.num_right[name] / row.score.num_images for row in rows]))
        for name in ("center", "ten")
    }
    precision = None if variant is None or variant.precision is None else first.score.precisions[variant.precision]
    return VariantResult(
        name=name_of(variant),
        label=plan.study.label_of(variant),
        num_parameters=first.run.architecture.num_parameters,
        num_train=first.run.num_train,
        num_epochs=first.run.recipe.epochs,
        searched=_searched(plan, first.run),
        values=tuple(values) if has_all else (),
        num_censored=sum(row.is_censored for row in rows),
        value=Interval.of(estimate(values)) if has_all else None,
        center=shares["center"],
        ten=shares["ten"],
        comparison=None if compared is None else Interval.of(compared),
        expect=None if variant is None else variant.expect,
        bound=_bound(plan, variant),
        outcome=outcome,
        sentence="" if variant is None else _sentence(plan, variant, compared, outcome, rows, base),
        epochs_to_error=Interval.of(estimate(reached)) if len(reached) == len(rows) else None,
        images_to_error=Interval.of(estimate([epochs * first.run.num_train for epochs in reached]))
        if len(reached) == len(rows)
        else None,
        remark=_edge_words(plan, first.run) if precision is None else precision.words,
    )


def _edge_words(plan: Plan, run: RunPlan) -> str:
    """Return a remark if the best value of a search is the smallest or the largest one that was tried."""
    for field, values in plan.study.search.items():
        best = getattr(run.recipe, field)
        if len(values) > 1 and best in (min(values), max(values)):
            which = "smallest" if best == min(values) else "largest"
            return f"its best {field} is the {which} that was tried: a better one may lie beyond"
    return ""


def _searched(plan: Plan, run: RunPlan) -> float | None:
    return next((float(getattr(run.recipe, field)) for field in plan.study.search), None)


def _bound(plan: Plan, variant: Variant | None) -> float:
    if variant is None:
        return 0.0
    return (variant.bound or 1.0) if plan.study.metric == "epochs" else variant.bound


def _outcome(
    plan: Plan, variant: Variant, compared: Estimate | None, rows: Sequence[Row], base: Sequence[Row]
) -> Outcome:
    """Return the verdict; a value that is known to be larger than counted only ever decides for being larger."""
    assert variant.expect is not None
    if compared is None:
        return "undecided"
    found = verdict(compared, variant.expect, _bound(plan, variant))
    is_higher = (found == "supported") is (variant.expect == "higher")
    too_small, too_large = (any(row.is_censored for row in side) for side in (rows, base))
    is_doubtful = too_large if is_higher else too_small
    return "undecided" if is_doubtful else found


def _sentence(
    plan: Plan,
    variant: Variant,
    compared: Estimate | None,
    outcome: Outcome | None,
    rows: Sequence[Row],
    base: Sequence[Row],
) -> str:
    start = "" if outcome is None else f"{_OUTCOMES[outcome]}: "
    if compared is None:
        if rows[0].value is not None:
            return f"{start}no run of “{variant.shown}” or “{plan.study.base}” reached the target."
        return f"{start}“{variant.shown}” has no result."
    label, other, seeds = f"“{variant.shown}”", f"“{plan.study.base}”", counted(len(plan.seeds), "seed")
    if plan.study.metric == "epochs":
        is_late, is_base_late = (any(row.is_censored for row in side) for side in (rows, base))
        limit = "" if is_late is is_base_late else "at least " if is_late else "at most "
        what = f"{label} needs {limit}{compared.mean:.2f} times the epochs of {other}"
        num_censored = sum(row.is_censored for row in (*rows, *base))
        late = f"; {counted(num_censored, 'run')} did not reach the target and count as their epochs" * bool(
            num_censored
        )
        form = "{:.2f}"
    else:
        side = "below" if compared.mean < 0 else "above"
        what = f"{label} is {abs(compared.mean):.2f} points of top-1 {side} {other}"
        late, form = "", "{:+.2f}"
    if compared.interval is None:
        return f"{start}{what}, with one seed; an interval needs two or more{late}."
    bound = ""
    if variant.expect is not None and variant.bound:
        bound = f"; claimed: {claimed_words(plan.study.metric, variant.expect, variant.bound)}"
    low, high = (form.format(end).replace("-", "\N{MINUS SIGN}") for end in compared.interval)
    return f"{start}{what} (95 % interval {low} to {high}, {seeds}{late}{bound})."


def claimed_words(metric: Metric, expect: Expectation, bound: float) -> str:
    """Return the side of the bound that is claimed: `below 0` points, or `above 1×` the epochs."""
    number = f"{bound:g}".replace("-", "\N{MINUS SIGN}")
    return f"{'below' if expect == 'lower' else 'above'} {number}{'×' if metric == 'epochs' else ''}"


_OUTCOMES: dict[Outcome, str] = {
    "supported": "This data supports the claim",
    "contradicted": "This data contradicts the claim",
    "undecided": "This data cannot decide the claim",
}


def _verdict_words(variants: Sequence[VariantResult]) -> str:
    judged = [variant for variant in variants if variant.outcome is not None]
    if not judged:
        return "This study makes no claim about its variants."
    if len(judged) == 1:
        return judged[0].sentence
    parts = [
        f"{_LISTED[outcome]} {', '.join(names)}"
        for outcome in _OUTCOMES
        if (names := [variant.label for variant in judged if variant.outcome == outcome])
    ]
    return f"{counted(len(judged), 'comparison')}: this data {'; '.join(parts)}."


_LISTED: dict[Outcome, str] = {
    "supported": "supports the claim for:",
    "contradicted": "contradicts the claim for:",
    "undecided": "cannot decide the claim for:",
}


def _target_words(plan: Plan) -> str:
    target = plan.study.target
    if target is None:
        return ""
    if target.of == "error":
        return f"a training error of {100 * target.share:g} %"
    return f"a training loss of {100 * target.share:g} % of ln {plan.tables['base'].num_classes}"
