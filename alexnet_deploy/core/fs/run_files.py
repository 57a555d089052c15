"""The names of the files in a run's directory, for what must not load torch to know them."""

from enum import StrEnum

WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
REPORT = "report.html"
CSV = "metrics.csv"
TENSORBOARD = "tensorboard"


class LogKind(StrEnum):
    """What writes the metrics of each epoch beside metrics.jsonl."""

    CSV = "csv"
    TENSORBOARD = "tensorboard"
