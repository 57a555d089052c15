"""Names of the files in a run's directory, for modules that must not import torch."""

from enum import StrEnum

WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
REPORT = "report.html"
CSV = "metrics.csv"
TENSORBOARD = "tensorboard"


class LogKind(StrEnum):
    """Extra formats for the metrics of each epoch, in addition to metrics.jsonl."""

    CSV = "csv"
    TENSORBOARD = "tensorboard"
