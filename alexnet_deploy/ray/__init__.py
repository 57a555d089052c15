"""Prediction on a Ray cluster.

from alexnet_deploy.ray import classify

rows = classify(ray.data.read_webdataset("s3://bucket/shards/", decoder=None), "bundles/latest", column="jpg")
rows.write_parquet("s3://bucket/rows/")

`classify` is for pipelines of Ray Data, whose fault tolerance may write rows twice. `alexnet-deploy predict --ray`
writes exactly one row for every input, also after a killed worker or a killed job.
"""

from alexnet_deploy.ray.dataset import classify

__all__ = ["classify"]
