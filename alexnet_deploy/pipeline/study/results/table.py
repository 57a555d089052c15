"""The results of a study as text for a terminal."""

from alexnet_deploy.core.process.say import counted
from alexnet_deploy.inspection.table import numbers, or_dash, text_table, words
from alexnet_deploy.pipeline.study.results.summary import Interval, StudyResult, VariantResult

_LEAST_IMPORTANT = ("parameters", "centre", "epochs to error", "interval")


def study_table(result: StudyResult, width: int | None = None) -> str:
    """Return a line for each variant, and the verdict; with `width`, columns that do not fit are dropped."""
    variants = result.variants
    is_epochs = result.metric == "epochs"
    columns = [
        words("variant", (variant.label for variant in variants)),
        numbers("parameters", (f"{variant.num_parameters:,}" for variant in variants)),
        *([] if not is_epochs else [numbers("epochs to target", (_epochs(variant) for variant in variants))]),
        numbers("centre", (_share(variant.center) for variant in variants)),
        numbers("ten views", (_share(variant.ten) for variant in variants)),
        *(
            []
            if not any(variant.value != variant.ten for variant in variants) or is_epochs
            else [numbers("top-1", ("-" if variant.value is None else _share(variant.value) for variant in variants))]
        ),
        numbers("ratio" if is_epochs else "difference", (_mean(variant.comparison, is_epochs) for variant in variants)),
        numbers("interval", (_interval(variant.comparison, is_epochs) for variant in variants)),
        numbers(
            "epochs to error",
            (or_dash(None if one.epochs_to_error is None else one.epochs_to_error.mean, ".1f") for one in variants),
        ),
    ]
    head = (
        f"{result.study}: {result.architecture}, {counted(result.num_train, 'training image')}, "
        f"{counted(result.num_tested, 'tested image')}, {counted(len(result.seeds), 'seed')}"
    )
    verdicts = [variant.outcome or "" for variant in variants]
    table = text_table(columns, verdicts, width=width, least_important=_LEAST_IMPORTANT)
    remarks = (f"{variant.label}: {variant.remark}" for variant in variants if variant.remark)
    notes = [*remarks, *(f"shrunk: {line}" for line in result.shrunk), f"claim: {result.claim}", result.sentence]
    return "\n".join((head, table, *notes))


def _share(value: Interval) -> str:
    if value.low is None or value.high is None:
        return f"{value.mean:.1f} %"
    return f"{value.mean:.1f} ± {(value.high - value.low) / 2:.1f} %"


def _epochs(variant: VariantResult) -> str:
    if variant.value is None:
        return "-"
    return f"{'over ' if variant.num_censored else ''}{variant.value.mean:.2f}"


def _mean(value: Interval | None, is_epochs: bool) -> str:
    return or_dash(None if value is None else value.mean, ".2f" if is_epochs else "+.2f")


def _interval(value: Interval | None, is_epochs: bool) -> str:
    if value is None or value.low is None or value.high is None:
        return "-"
    form = ".2f" if is_epochs else "+.2f"
    return f"{value.low:{form}} to {value.high:{form}}"
