"""The names of the files in a run's directory, for what must not load torch to know them."""

WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
REPORT = "report.html"
