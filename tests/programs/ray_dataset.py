"""python ray_dataset.py BUNDLE FOLDER ARCHIVE: classify datasets of Ray Data, and print their rows as JSON."""

import json
import sys

import pyarrow as pa
import ray

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.ray import classify

if __name__ == "__main__":
    bundle, folder, archive = sys.argv[1:]
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    files = ray.data.read_binary_files(folder, include_paths=True)
    samples = ray.data.read_webdataset(archive, decoder=None)
    large = ray.data.from_arrow(
        pa.table({"number": [0, 1], "path": pa.array([f"{folder}/a.jpg", None], pa.large_string())})
    )
    found = {
        "paths": classify([folder, "nowhere.jpg"], bundle, topk=1, reject=0.99).take_all(),
        "files": classify(files, bundle, topk=1).take_all(),
        "samples": classify(samples.drop_columns(["cls"]), bundle, column="jpg", topk=1).take_all(),
        "large": classify(large, bundle, topk=1).take_all(),
        "none": classify([], bundle).take_all(),
    }
    refused = []
    for dataset, column in (
        (files, "picture"),
        (samples, None),
        (files.rename_columns({"path": "top"}), None),
        (large, "number"),
    ):
        try:
            classify(dataset, bundle, column=column)
        except UsageError as error:
            refused.append(str(error))
    print(json.dumps({**found, "refused": refused}))
