"""Progress and messages on stderr: bars on a terminal, plain lines elsewhere.

rich is imported where a bar is drawn: `predict` in a script, which shows none, starts a tenth faster.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from alexnet_deploy.core.process.interruption import unwinding
from alexnet_deploy.core.process.say import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

    from alexnet_deploy.engines.tensorrt.build import BuildProgress
    from alexnet_deploy.pipeline.study.plan import RunPlan
    from alexnet_deploy.train.loop.record import Progress as TrainingProgress


def say(line: str) -> None:
    """Write one line to stderr, above any progress bar; terminal control characters are escaped."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


def say_lines(text: str) -> None:
    """Write several lines, such as a table, to stderr."""
    for line in text.split("\n"):
        say(line)


def show(text: str) -> None:
    """Write lines for a person to stdout; terminal control characters are escaped."""
    sys.stdout.write(f"{printable_lines(text)}\n")


def show_path(path: Path) -> None:
    """Write a path to stdout: unchanged to a program, with control characters escaped to a terminal."""
    sys.stdout.write(f"{for_stdout(str(path))}\n")


def for_stdout(text: str) -> str:
    """Return the text unchanged if stdout goes to a program, with control characters escaped if to a terminal."""
    return printable_lines(text) if sys.stdout.isatty() else text


def width_of(stream: TextIO) -> int | None:
    """Return the width, in characters, of the terminal that a stream writes to; None if it is not a terminal."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def _bar(*columns: "ProgressColumn", is_wanted: bool = True) -> "Iterator[Progress]":
    from rich.progress import Progress

    console = _console()
    bar = Progress(*columns, console=console, disable=not (console.is_terminal and is_wanted), transient=True)
    # A signal must not skip the clean-up, which removes at least the bar itself.
    with unwinding(), bar:
        yield bar


@contextmanager
def _speed_bar(done: str) -> "Iterator[Progress]":
    """Yield a bar with how much is done, in this form, the task's speed and the time left."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    with _bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(done),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    ) as progress:
        yield progress


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Yield a function that prints each new stage on its own line; on a terminal the current stage has a spinner."""
    console = _console()
    if not console.is_terminal:
        with unwinding():
            yield lambda line: say(f"  {line}")
        return
    from rich.markup import escape

    started: list[str] = []
    with unwinding(), console.status("") as status:

        def show(line: str) -> None:
            if started:
                console.print(f"  {printable(started[-1])}", markup=False)
            started.append(line)
            status.update(escape(printable(line)))

        yield show
        if started:
            console.print(f"  {printable(started[-1])}", markup=False)


@contextmanager
def training_bar() -> Iterator[Callable[["TrainingProgress"], None]]:
    """Yield a function that shows training: a bar with loss, throughput and time left, and one line per epoch."""
    with _speed_bar("{task.percentage:>3.0f} %") as progress:
        task = progress.add_task("epoch 1", total=None, speed="")

        def show(now: "TrainingProgress") -> None:
            progress.update(
                task,
                total=now.total_images,
                completed=now.num_images,
                description=f"epoch {now.epoch}, loss {now.loss:.3f}",
                speed=f"{now.images_per_second:,.0f} images/s",
            )
            if (done := now.finished) is not None:
                progress.console.print(
                    f"epoch {done.epoch:>3}   loss {done.train_loss:.3f}   validation {done.validation_loss:.3f}, "
                    f"top-1 {done.validation_top1:6.1%}   {done.images_per_second:,.0f} images/s"
                )

        yield show


@contextmanager
def study_bar() -> Iterator[Callable[["RunPlan", "TrainingProgress"], None]]:
    """Yield a function that shows the training of one run of a study after another."""
    from rich.markup import escape

    with _speed_bar("{task.percentage:>3.0f} %") as progress:
        task = progress.add_task("", total=None, visible=False, speed="")

        def show(run: "RunPlan", now: "TrainingProgress") -> None:
            progress.update(
                task,
                total=now.total_images,
                completed=now.num_images,
                description=escape(f"{run.folder}, epoch {now.epoch}, loss {now.loss:.3f}"),
                speed=f"{now.images_per_second:,.0f} images/s",
                visible=True,
            )

        yield show


@contextmanager
def images_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows how many of the images are done."""
    with _speed_bar("{task.completed:,.0f} of {task.total:,.0f}") as progress:
        task = progress.add_task(what, total=1, visible=False, speed="")
        first: list[int] = []

        def show(done: int, total: int) -> None:
            # Images done before the first call say nothing about speed.
            if not first:
                first.append(done)
            elapsed = progress.tasks[0].elapsed or 0.0
            speed = f"{(done - first[0]) / elapsed:,.0f} images/s" if elapsed > 1 else ""
            progress.update(task, total=total, completed=done, visible=True, speed=speed)

        yield show


@contextmanager
def counting_bar(what: str) -> Iterator[Callable[[], None]]:
    """Yield a function that counts one item; the count is hidden if the terminal also shows the results."""
    if not sys.stderr.isatty():
        with unwinding():
            yield lambda: None
        return
    from rich.progress import SpinnerColumn, TextColumn

    with _bar(
        SpinnerColumn(),
        TextColumn(f"{{task.completed:,.0f}} {what}"),
        TextColumn("{task.fields[speed]}"),
        is_wanted=not sys.stdout.isatty(),
    ) as progress:
        task = progress.add_task(what, total=None, speed="")

        def count() -> None:
            speed = progress.tasks[0].speed
            progress.update(task, advance=1, speed="" if speed is None else f"{speed:,.0f}/s")

        yield count


@contextmanager
def building_bar() -> Iterator[Callable[["BuildProgress"], None]]:
    """Yield a function that shows the progress of a plan build."""
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    with _bar(
        TextColumn("  {task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    ) as progress:
        task = progress.add_task("building", total=1.0, visible=False)

        def show(now: "BuildProgress") -> None:
            progress.update(task, completed=now.fraction, description=escape(printable(now.phase)), visible=True)

        yield show
