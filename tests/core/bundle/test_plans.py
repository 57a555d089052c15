"""Records of plans: batch sizes, options and file names."""

import msgspec
import pytest

from alexnet_deploy.core.bundle.plans import PlanOptions, PlanRecord, Profile, plan_file

RECORD = PlanRecord(
    file="plans/tensorrt-10.13-aot.engine",
    backend="tensorrt",
    version="10.13",
    target="aot",
    graph_sha256="0" * 64,
    profile=Profile(),
    options=PlanOptions(),
    build_seconds=1.0,
    layers={},
    proof="pending",
)


def test_defaults_are_those_of_the_help() -> None:
    assert Profile() == Profile(min_batch=1, opt_batch=8, max_batch=16)
    assert PlanOptions() == PlanOptions(workspace_bytes=None, is_version_compatible=False, is_hardware_compatible=False)


@pytest.mark.parametrize(("least", "best", "most"), [(1, 1, 1), (1, 2, 2), (2, 2, 3), (4, 8, 16)])
def test_batch_sizes_may_be_equal(least: int, best: int, most: int) -> None:
    Profile(min_batch=least, opt_batch=best, max_batch=most)


@pytest.mark.parametrize(("least", "best", "most"), [(0, 1, 1), (2, 1, 3), (1, 3, 2)])
def test_batch_sizes_of_another_order_are_refused(least: int, best: int, most: int) -> None:
    words = f"batch sizes must be 1 <= min <= opt <= max, got min {least}, opt {best}, max {most}"
    with pytest.raises(ValueError, match=words):
        Profile(min_batch=least, opt_batch=best, max_batch=most)


def test_scratch_memory_is_a_byte_or_more() -> None:
    assert PlanOptions(workspace_bytes=1).workspace_bytes == 1
    with pytest.raises(ValueError, match="workspace_bytes must be 1 or more, got 0"):
        PlanOptions(workspace_bytes=0)


@pytest.mark.parametrize("file", ["plans/a.engine", "plans/A-1.2.engine"])
def test_a_plan_lies_in_plans(file: str) -> None:
    assert msgspec.structs.replace(RECORD, file=file).file == file


@pytest.mark.parametrize("file", ["a.engine", "plans/a", "plans/.a.engine", "plans/a/b.engine", "plans/a.engine\n"])
def test_a_plan_elsewhere_is_refused(file: str) -> None:
    with pytest.raises(ValueError, match=r"it must be plans/NAME\.engine"):
        msgspec.structs.replace(RECORD, file=file)


def test_the_file_of_a_target_has_plain_characters() -> None:
    assert plan_file("tensorrt", "10.13", "aot") == RECORD.file
    assert (
        plan_file("tensorrt-rtx", "1.3.0", "(sm_90) NVIDIA H100!")
        == "plans/tensorrt-rtx-1.3.0-sm-90-nvidia-h100.engine"
    )
