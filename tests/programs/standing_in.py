"""What an engine of the tests says of itself."""

from dataclasses import replace

from alexnet_deploy.engines.engine import EngineInfo

_INFO = EngineInfo(
    backend="a backend",
    version="1",
    device="cpu",
    precision="fp32",
    arithmetic="float32",
    num_threads=1,
    num_streams=1,
    batch_size=8,
    bundle_sha256=None,
)


def engine_info(**changes: object) -> EngineInfo:
    return replace(_INFO, **changes)  # type: ignore[arg-type]
