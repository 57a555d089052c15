"""The page of a study, from its results."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet_deploy.pipeline.study.definition import name_of
from alexnet_deploy.pipeline.study.plan import Plan
from alexnet_deploy.pipeline.study.results.files import RunTime
from alexnet_deploy.pipeline.study.results.statistics import estimate
from alexnet_deploy.pipeline.study.results.summary import Interval, Row, StudyResult, VariantResult, claimed_words
from alexnet_deploy.report.figures.overlay import Series
from alexnet_deploy.report.page import Thumbnail, save_page
from alexnet_deploy.report.pages.study import ShownRun, ShownVariant, Spread, StudyPage, render_study
from alexnet_deploy.train.pack.format import Pack

REPORT = "report.html"


def write_page(
    out: Path, plan: Plan, result: StudyResult, rows: Sequence[Row], times: Mapping[str, list[RunTime]], images: Pack
) -> None:
    """Write the page of a study; raises OutputError where it cannot be written."""
    is_loss = plan.study.target is not None and plan.study.target.of == "loss"
    measured = "training images" if plan.study.target is not None else "validation images"
    outcomes = set(result.outcomes)
    page = StudyPage(
        name=result.study,
        claim=result.claim,
        source=result.source,
        figure=result.figure,
        sentence=result.sentence,
        holds=True if outcomes == {"supported"} else False if outcomes == {"contradicted"} else None,
        is_epochs=result.metric == "epochs",
        target=result.target,
        views=result.views,
        architecture=result.architecture,
        recipe=result.recipe,
        searched=next(iter(plan.study.search), ""),
        num_train=result.num_train,
        num_tested=result.num_tested,
        is_held_out=result.is_held_out,
        labels=result.class_names,
        seeds=result.seeds,
        shrunk=result.shrunk,
        error=result.error,
        quantity=f"{'Loss in nats' if is_loss else 'Top-1 error'} on the {measured}, centre view,",
        suffix="" if is_loss else " %",
        mark=_mark(plan, result, is_loss=is_loss),
        variants=tuple(
            _shown(plan, variant, [row for row in rows if name_of(row.variant) == variant.name], times, is_loss=is_loss)
            for variant in result.variants
        ),
        details=_details(plan, rows, images) if plan.study.details else (),
        tools=result.tools,
    )
    save_page(out / REPORT, render_study(page))


def _mark(plan: Plan, result: StudyResult, *, is_loss: bool) -> float | None:
    target = plan.study.target
    if not is_loss or target is None:
        return result.error
    return target.share * math.log(len(result.class_names))


def _shown(
    plan: Plan, variant: VariantResult, rows: Sequence[Row], times: Mapping[str, list[RunTime]], *, is_loss: bool
) -> ShownVariant:
    own = times.get(variant.name)
    until = [time.seconds_to_error / 60 for time in own or () if time.seconds_to_error is not None]
    return ShownVariant(
        label=variant.label,
        num_parameters=variant.num_parameters,
        searched=variant.searched,
        center=_required(variant.center),
        ten=_required(variant.ten),
        value=_spread(variant.value),
        is_at_least=variant.num_censored > 0,
        comparison=_spread(variant.comparison),
        outcome=variant.outcome or "",
        claimed="" if variant.expect is None else claimed_words(plan.study.metric, variant.expect, variant.bound),
        sentence=variant.sentence,
        epochs_to_error=None if own is None else _spread(variant.epochs_to_error),
        images_to_error=None if own is None else _spread(variant.images_to_error),
        seconds_to_error=_spread(Interval.of(estimate(until))) if own and len(until) == len(own) else None,
        seconds=_spread(Interval.of(estimate([time.seconds for time in own]))) if own else None,
        remark=variant.remark,
        curve=None if own is None else _series(variant.label, rows, is_loss=is_loss),
    )


def _series(name: str, rows: Sequence[Row], *, is_loss: bool) -> Series:
    first = rows[0]
    num_epochs = min(row.score.num_epochs for row in rows)
    return Series(
        name=name,
        places=tuple(float(epoch * first.run.num_train) for epoch in range(1, num_epochs + 1)),
        values=tuple(
            tuple(point.loss if is_loss else 100 * point.error for point in row.score.curve[:num_epochs])
            for row in rows
        ),
    )


def _spread(found: Interval | None) -> Spread | None:
    return None if found is None else _required(found)


def _required(found: Interval) -> Spread:
    interval = None if found.low is None or found.high is None else (found.low, found.high)
    return Spread(mean=found.mean, interval=interval)


def _details(plan: Plan, rows: Sequence[Row], images: Pack) -> tuple[ShownRun, ...]:
    """Return the base and the variants with another recipe in detail, each with the first seed."""
    shown = [row for row in rows if row.seed == plan.seeds[0] and (row.variant is None or row.variant.recipe)]
    labels = images.header.labels
    return tuple(
        ShownRun(
            title=f"{plan.study.label_of(row.variant)}, seed {row.seed}",
            confusion=row.score.confusion,
            errors=tuple(
                Thumbnail(
                    caption=images.name_of(miss.number),
                    image=images.images[miss.number],
                    predictions=tuple(
                        (labels[index], probability)
                        for index, probability in zip(miss.predictions, miss.probabilities, strict=True)
                    ),
                    truth=labels[miss.truth],
                )
                for miss in row.score.misses
            ),
            num_errors=row.score.num_images - sum(row.score.confusion[k][k] for k in range(len(labels))),
        )
        for row in shown
    )
