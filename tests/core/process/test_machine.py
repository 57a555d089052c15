"""Processors that a process may use: its affinity and the quota of its cgroup."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_deploy.core.process import machine
from alexnet_deploy.core.process.machine import num_processors, processor_quota

V1 = Path("/sys/fs/cgroup/cpu")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up cgroup file system on a machine of 64 processors; `membership` says where this process is in it."""
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(machine, "_affinity", lambda: 64)
    return tmp_path


def v2(place: Path, folder: str, quota: str) -> None:
    (place / folder).mkdir(parents=True, exist_ok=True)
    (place / folder / "cpu.max").write_text(f"{quota} 100000\n")


def v1(place: Path, folder: str, quota: int) -> None:
    (place / "cpu" / folder).mkdir(parents=True, exist_ok=True)
    (place / "cpu" / folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (place / "cpu" / folder / "cpu.cfs_period_us").write_text("100000\n")


@pytest.mark.parametrize(("quota", "allowed"), [("150000", 2), ("100000", 1), ("20000", 1), ("6400000", None)])
def test_a_quota_is_rounded_up(place: Path, quota: str, allowed: int | None) -> None:
    (place / "membership").write_text("0::/pod/container\n")
    v2(place, "pod/container", quota)
    assert processor_quota() == allowed
    assert num_processors() == (allowed or 64)


def test_the_smallest_quota_on_the_way_up_counts(place: Path) -> None:
    (place / "membership").write_text("0::/pod/container\n")
    v2(place, "pod/container", "max")
    v2(place, "pod", "300000")
    v2(place, "", "800000")
    assert processor_quota() == 3


def test_a_container_whose_own_group_is_the_root_has_its_quota(place: Path) -> None:
    (place / "membership").write_text("0::/host/slice/container\n")
    v2(place, "", "250000")
    assert processor_quota() == 3


def test_version_1_has_its_quota_in_two_files(place: Path) -> None:
    (place / "membership").write_text("4:memory:/other\n2:cpu,cpuacct:/docker/a\n0::/\n")
    v1(place, "docker/a", 400_000)
    v1(place, "", -1)
    assert processor_quota() == 4


@pytest.mark.parametrize("membership", [None, "0::/\n", "1:cpu:/gone\n"])
def test_without_a_quota_the_affinity_counts(place: Path, membership: str | None) -> None:
    if membership is not None:
        (place / "membership").write_text(membership)
    assert processor_quota() is None
    assert num_processors() == 64


@pytest.mark.parametrize("content", ["", "\n", "max\n", "100000\n", "100000 0\n", "some 100000\n"])
def test_a_file_that_states_no_quota_is_no_quota(place: Path, content: str) -> None:
    (place / "membership").write_text("0::/pod/container\n")
    v2(place, "pod/container", "max")
    (place / "pod/container/cpu.max").write_text(content)
    v2(place, "pod", "300000")
    assert processor_quota() == 3


PRINT_THREADS = """
import os, sys
from alexnet_deploy.cli import main
sys.argv = ["alexnet-deploy", "--version"]
try:
    main()
except SystemExit:
    pass
import torch
from alexnet_deploy.core.process.ahead import decode_threads
from alexnet_deploy.core.process.machine import num_processors
print(num_processors(), decode_threads(), torch.get_num_threads())
"""


@pytest.mark.skipif(not os.access(V1, os.W_OK) or os.geteuid() != 0, reason="no cgroup of version 1 can be made here")
@pytest.mark.skipif(num_processors() < 2, reason="one processor cannot be limited to fewer")
def test_in_a_cgroup_of_one_processor_one_thread_is_started() -> None:
    group = V1 / f"alexnet-deploy-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text("100000")
        command = f'echo $$ >{group}/cgroup.procs && exec {sys.executable} -c "$PRINT"'
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment["PRINT"] = PRINT_THREADS
        done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "1 1 1"
    finally:
        group.rmdir()
