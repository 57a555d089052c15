"""`alexnet-deploy merge`."""

from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.prediction.conclusion import conclude
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.process.interruption import unwinding
from alexnet_deploy.core.process.say import counted


def merge(
    shards: Annotated[list[Path], typer.Argument(metavar="SHARD...", help="The rows of every `predict --shard`.")],
    output: Annotated[Path, typer.Option(help="Write all rows, in input order, to this new file.")],
) -> None:
    """Merge the rows of all shards of `predict --shard` to the file that one run would have written.

    The shards must be of one bundle, engine, format and list of inputs.
    """
    from alexnet_deploy.cli.terminal import images_bar, say
    from alexnet_deploy.predict.output import check_output, writing_whole
    from alexnet_deploy.predict.row_formats import FORMAT_OF_ENDING
    from alexnet_deploy.predict.shards.merging import merge_rows, read_shards

    check_output(output, resume=False)
    written = read_shards(shards)
    form = written[0].record.form
    implied = FORMAT_OF_ENDING.get(output.suffix.lower(), form.row_format)
    if implied != form.row_format:
        raise UsageError(
            f"{output}: its extension means {implied}, but the rows are {form.row_format}; choose another --output"
        )
    with unwinding(), images_bar("merging") as count, writing_whole(output, say=say) as put:
        outcomes = merge_rows(written, put, count)
    say(f"{output}: {counted(outcomes.total(), 'row')} of {counted(len(written), 'shard')}")
    conclude(outcomes, written[0].record.form.reject)
