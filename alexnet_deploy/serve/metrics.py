"""The server's figures, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The figures of one server; each server has a registry of its own."""

    def __init__(self) -> None:
        """Create all figures at 0."""
        self.registry = CollectorRegistry()
        of_model = ("model", "version")
        self.requests = Counter(
            "alexnet_deploy_requests", "Answered requests", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "alexnet_deploy_request_seconds",
            "Time from the request's headers to its answer",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.images = Counter("alexnet_deploy_images", "Images answered", of_model, registry=self.registry)
        self.batches = Histogram(
            "alexnet_deploy_batch_images",
            "Images that ran together",
            of_model,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.waiting = Gauge(
            "alexnet_deploy_waiting_images", "Images that are decoded, wait or run", of_model, registry=self.registry
        )
