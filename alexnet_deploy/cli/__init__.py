"""The commands: parse, call one function, print. Results go to stdout, messages to stderr.

Libraries are imported inside the commands, so `--help` is fast and `predict` does not need torch.
"""

import io
import logging
import os
import sys
import traceback
import warnings
from contextlib import suppress
from typing import Annotated

import typer

from alexnet_deploy.cli.commands import build, export, import_, look, merge, predict, train
from alexnet_deploy.cli.commands.data import gather, pack
from alexnet_deploy.cli.commands.measuring import bench, check, evaluate, study
from alexnet_deploy.cli.commands.serving import serve, triton
from alexnet_deploy.cli.wrong_use import PROGRAM, wrong_use_words
from alexnet_deploy.core.errors import AlexNetDeployError, UsageError
from alexnet_deploy.core.process.installation import SMALL_TORCH, Extra, install_command
from alexnet_deploy.core.process.machine import processor_quota
from alexnet_deploy.core.process.say import printable
from alexnet_deploy.engines.registry import BACKENDS, SPECS

app = typer.Typer(
    name=PROGRAM,
    help="AlexNet, from images to a verified engine.",
    epilog="Start with: alexnet-deploy train, then export, then predict images/.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from alexnet_deploy.core.process.versions import __version__

        typer.echo(f"alexnet-deploy {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """AlexNet, from images to a verified engine."""


# The order of first use; --help lists the commands in this order.
for command in (
    gather.gather,
    train.train,
    look.recipes,
    pack.pack,
    import_.import_,
    export.export,
    predict.predict,
    merge.merge,
    check.check,
    evaluate.evaluate,
    bench.bench,
    study.study,
    build.build,
    build.embed,
    serve.serve,
    triton.triton,
    look.inspect,
    look.doctor,
    look.demo,
):
    # `import` is a word of Python's.
    app.command(command.__name__.rstrip("_"))(command)

_WrongUse: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]
"""What Typer raises for a wrong command line; it exports only this subclass, of its own or of click's by release."""

_EXTRAS: dict[str, Extra] = {
    "torch": "train",
    "onnx": "train",
    "google": "train",
    "h5py": "import",
    "scipy": "import",
    "protego": "gather",
    "bs4": "gather",
    "pyarrow": "parquet",
    "matplotlib": "train",
    "jinja2": "train",
    "tensorboard": "tensorboard",
    "starlette": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "httpx": "serve",
    **{name: SPECS[name].extra for name in BACKENDS},
}


def main() -> None:
    """Run the command line; report an error as one sentence and an exit code, with --debug after its traceback."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    # Set before torch is imported: its OpenMP (GNU's) reads it at import. Where another process needs the CPU too,
    # threads that spin while they wait stop the threads that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if (quota := processor_quota()) is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(quota))
    # The converter of other formats takes most of the time of importing openvino. openvino works without it, and no
    # command converts.
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
    if isinstance(sys.stdout, io.TextIOWrapper):
        # jsonl is UTF-8 whatever the terminal uses; a path that is not UTF-8 is written as its own bytes. Line
        # buffering: the next program in a pipe gets each row at once.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", line_buffering=True)
    # The rows already report what happened to each file, so Pillow's warnings are not needed.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", module="PIL")
    try:
        if sys.stdout is None:
            raise UsageError("stdout is closed, so the results cannot be written")
        _run(arguments)
    except BrokenPipeError:
        # The reader of the rows has closed the pipe: it needs no more.
        _drop_results()
        sys.exit(141)
    except Exception as error:  # noqa: BLE001 - every error becomes an exit code here
        if len(arguments) < len(sys.argv) - 1:
            traceback.print_exception(error)
        sys.stderr.write(f"error: {printable(' '.join(_in_words(error).splitlines()))}\n")
        if isinstance(error, OSError):
            _drop_results()
        sys.exit(error.exit_code if isinstance(error, AlexNetDeployError) else 3)


def _run(arguments: list[str]) -> None:
    try:
        code = app(args=arguments, standalone_mode=False)
    except _WrongUse as error:
        if not arguments:
            error.show()  # type: ignore[attr-defined]
            sys.exit(error.exit_code)  # type: ignore[attr-defined]
        raise UsageError(wrong_use_words(error, typer.main.get_command(app), arguments)) from error
    except SystemExit as leaving:
        # Typer exits with 1 on a broken pipe, but here 1 means that a check or an input failed.
        if isinstance(leaving.__context__, BrokenPipeError):
            raise leaving.__context__ from None
        # Flush here, where a failure to write the results still changes the exit code.
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    sys.exit(code)


def _drop_results() -> None:
    """Keep Python from flushing at exit what could not be written."""
    # A stdout that the calling program replaced may have no file descriptor, and then nothing to flush.
    with suppress(io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_words(error: Exception) -> str:
    if isinstance(error, AlexNetDeployError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in _EXTRAS:
        extra = _EXTRAS[(error.name or "").split(".")[0]]
        note = f"; {SMALL_TORCH}" if error.name == "torch" and sys.platform == "linux" else ""
        return f"this command needs {error.name}, which is not installed; `{install_command(extra)}` installs it{note}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}; --debug shows the traceback"
