"""A worker: a process of the cluster that holds an engine and predicts one shard after another."""

import os
import platform
from dataclasses import dataclass

from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.fs.patience import set_retries
from alexnet_deploy.predict.shards.inputs import Shard
from alexnet_deploy.predict.shards.record import Origin
from alexnet_deploy.predict.shards.run import predict_shard
from alexnet_deploy.predict.shards.sidecar import ShardRun
from alexnet_deploy.predict.stream import Classifier
from alexnet_deploy.ray.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a worker says of itself once its engine is open."""

    machine: str
    origin: Origin
    engine: str
    """Backend, version, device and arithmetic, in words."""


class Worker:
    """Predicts shards of one job; lives in an actor of Ray."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def open(self) -> Greeting:
        """Open the engine; raises UsageError if this machine does not have the command's working directory.

        Not done by the constructor, whose exceptions Ray reports as text only.
        """
        try:
            os.chdir(self._job.directory)
        except OSError as error:
            raise UsageError(
                f"{self._job.directory}: {error.strerror} on {platform.node()}; --ray needs the same folders on every "
                "machine"
            ) from error
        settings = self._job.settings
        set_retries(settings.retries)
        bundle = open_bundle(settings.bundle, settings.bundle_sha256)
        self._classifier = Classifier(
            bundle=bundle,
            engine=settings.options.open(bundle),
            topk=settings.form.topk,
            limits=settings.limits,
            reject=settings.form.reject,
        )
        info = self._classifier.engine.info
        return Greeting(
            machine=platform.node(),
            origin=Origin.of(info, settings.limits),
            engine=info.words,
        )

    def predict(self, shard: Shard) -> None:
        """Write the rows of a shard and its record; rows that are there are kept."""
        settings = self._job.settings
        run = ShardRun(
            output=self._job.place(shard),
            inputs=self._job.inputs(shard),
            form=settings.form,
            bundle_sha256=settings.bundle_sha256,
        )
        try:
            predict_shard(run, self._classifier, settings.batch_size)
        except UsageError:
            # The worker before, whose process has ended or was given up, may have completed it at its last moment.
            if self._job.record(shard) is None:
                raise
