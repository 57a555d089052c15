"""`alexnet-deploy predict --ray`: the job on the cluster."""

from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_deploy.cli.prediction.task import Task
from alexnet_deploy.core.process.interruption import install, unwinding

if TYPE_CHECKING:
    from alexnet_deploy.predict.sink import Tally


def predict_on_cluster(task: Task) -> "Tally":
    """Write a row for each input to --output, and return the tally of all rows."""
    from alexnet_deploy.cli.terminal import images_bar, say
    from alexnet_deploy.predict.output import writing_whole
    from alexnet_deploy.predict.shards.merging import merge_rows, read_shards
    from alexnet_deploy.predict.shards.record import RowForm
    from alexnet_deploy.ray.cluster import Progress, connected, run_job
    from alexnet_deploy.ray.job import Settings, open_job, remove_job

    asked, bundle = task.asked, task.bundle
    output, address = asked.output, asked.ray
    assert output is not None, "--ray needs --output"
    assert address is not None, "without --ray, this process predicts"
    settings = Settings(
        bundle=bundle.path.absolute(),
        bundle_sha256=bundle.sha256,
        options=asked.engine,
        form=RowForm.of(task.writer),
        limits=asked.limits,
        retries=asked.retries,
        batch_size=asked.batch_size,
    )
    inputs = task.left(task.inputs)
    with unwinding(), open_job(output, settings, inputs, resume=asked.resume, say=say) as job:
        try:
            with connected(address) as ray, images_bar("predicting") as count:
                # Ray has installed a handler of its own.
                install()
                run_job(job, ray, Progress(say=say, count=count))
        except BaseException:
            if job.has_rows():
                say(f"the rows so far are in {job.folder}; repeat the command with --resume to continue")
            raise
        shards = read_shards([job.place(shard) for shard in job.shards])
        with images_bar("merging") as count, writing_whole(output, say=say) as put:
            outcomes = merge_rows(shards, put, count)
        remove_job(output)
    return outcomes


def remove_finished(output: Path) -> None:
    """Remove the shards of a complete output, which a job that was killed at its last step leaves."""
    from alexnet_deploy.ray.job import remove_job

    remove_job(output)
