"""One study, from its request to its report; the same request resumes it wherever it was interrupted.

OUT/plan.json      the plan: what is run, written once
OUT/images.pack    the images, decoded once for all runs
OUT/runs/          one run directory for each variant and seed; OUT/search/ those of a search
OUT/results.csv    one row for each variant and seed; OUT/curves.csv one for each epoch
OUT/study.json     means, intervals and the verdict
OUT/times.csv      measured times, in a file of their own: all others are the same after any interruption
OUT/report.html
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

from alexnet_deploy.core.errors import BusyError, OutputError, UsageError
from alexnet_deploy.core.fs.locks import Lock, try_lock
from alexnet_deploy.core.fs.opening import make_directory, open_working
from alexnet_deploy.core.model.family import preprocessing_for
from alexnet_deploy.core.process.machine import num_processors
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.pipeline.study.definition import BASE
from alexnet_deploy.pipeline.study.plan import (
    PACK,
    Draft,
    Plan,
    StudyRequest,
    draft,
    every_run,
    load_plan,
    measured_runs,
    plan_of,
    refuse_other,
    save_plan,
    search_runs,
)
from alexnet_deploy.pipeline.study.results.files import write_files
from alexnet_deploy.pipeline.study.results.page import REPORT, write_page
from alexnet_deploy.pipeline.study.results.summary import Facts, StudyResult, result_of, rows_of
from alexnet_deploy.pipeline.study.running.budget import within_budget
from alexnet_deploy.pipeline.study.running.images import pack_of, refuse_too_few, shared_pack
from alexnet_deploy.pipeline.study.running.runs import Workplace, best_values, finish_all
from alexnet_deploy.train.pack.format import Pack
from alexnet_deploy.train.run import image_policy_of

_LOCK = ".lock"

_PATIENCE_SECONDS = 10.0
"""How long to wait for the processes of a killed study, which end by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Studied:
    """A finished study."""

    result: StudyResult
    report: Path


def run_study(
    request: StudyRequest,
    out: Path,
    here: Workplace,
    *,
    on_packed: Callable[[int, int], None] = lambda done, total: None,
) -> Studied:
    """Run a study in the directory `out`, from its beginning or from where it was interrupted.

    Raises UsageError for a study, a table or a setting that does not exist or does not fit, for a directory that holds
    something else, and for a budget that is too short; BusyError if another process runs the study; and what packing
    and training raise.
    """
    found = draft(request)
    refuse_foreign(out)
    try:
        make_directory(out)
        with _holding(out) as lock:
            here = replace(here, lock=lock)
            plan = load_plan(out)
            if plan is not None:
                refuse_other(out, plan, found.asked)
                here.say(f"{out}: resuming")
            else:
                policy = image_policy_of(preprocessing_for(found.tables[BASE].name), found.recipes[BASE])
                images = shared_pack(request.data, out, policy, say=here.say, on_progress=on_packed)
                plan = _planned(found, request, out, here, images)
            return _finish(out, plan, here)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error


def _planned(found: Draft, request: StudyRequest, out: Path, here: Workplace, images: Pack) -> Plan:
    plan = plan_of(found, request, images.header, threads=max(1, num_processors() // here.jobs))
    refuse_too_few(images, plan, every_run(plan))
    if request.budget_seconds is not None:
        plan = within_budget(plan, out, request.budget_seconds, jobs=here.jobs, say=here.say)
        refuse_too_few(images, plan, every_run(plan))
    save_plan(out, plan)
    return plan


def _finish(out: Path, plan: Plan, here: Workplace) -> Studied:
    """Do the runs that are left, and write the results."""
    images = pack_of(plan, out)
    searches = search_runs(plan)
    total = len(searches) + len(plan.seeds) * len(plan.tables)
    here.say(f"{plan.study.name}: {counted(total, 'run')}, {counted(len(plan.seeds), 'seed')}")
    values = best_values(plan, finish_all(out, plan, searches, here)) if searches else {}
    for field in plan.study.search:
        here.say(f"best {field}: {', '.join(f'{name} {value:g}' for name, value in values.items())}")
    runs = measured_runs(plan, values)
    scores = finish_all(out, plan, runs, here)
    rows, error = rows_of(plan, runs, scores)
    facts = Facts(
        data_sha256=images.header.source_sha256,
        class_names=images.header.labels,
        tools=tool_versions("torch"),
    )
    result = result_of(plan, rows, error, facts)
    times = write_files(out, plan, result, rows)
    write_page(out, plan, result, rows, times, images)
    return Studied(result=result, report=out / REPORT)


def refuse_foreign(out: Path) -> None:
    """Raise UsageError if `out` holds something that is not a study."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out}: is a file, not a directory; choose another --out")
    if load_plan(out) is not None:
        return
    strange = [path.name for path in sorted(out.iterdir()) if path.name != PACK and not path.name.startswith(".")]
    if strange:
        raise UsageError(f"{out}: contains {strange[0]} but no plan.json, so it is not a study; choose another --out")


@contextmanager
def _holding(out: Path) -> Iterator[int]:
    """Lock the study against other processes, and yield the lock's descriptor; raises BusyError.

    The processes of runs inherit the lock: those of a killed study may still hold it for a moment.
    """
    with open_working(out / _LOCK, "ab") as file:
        end = time.monotonic() + _PATIENCE_SECONDS
        while try_lock(cast(BinaryIO, file)) is Lock.TAKEN:
            if time.monotonic() > end:
                raise BusyError(f"{out}: another process runs this study; wait for it, or choose another --out")
            time.sleep(0.05)
        yield file.fileno()
