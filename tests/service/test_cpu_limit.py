"""The number of CPUs under the limits of control groups, version 1 and 2."""

import os
from pathlib import Path

import pytest

from service.cpu_limit import available_cpus, cpu_limits


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """Write /proc/self/cgroup and the files below /sys/fs/cgroup."""
    for name, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "5:cpuset:/pod\n4:cpu,cpuacct:/pod\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, [2.0]),
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        ("0::/\n", {}, []),
        ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "150000 100000\n"}, [1.5]),
        ("0::/pod/box\n", {"pod/box/cpu.max": "300000 100000\n", "pod/cpu.max": "50000 100000\n"}, [3.0, 0.5]),
        ("0::/../other\n", {"cpu.max": "garbage\n"}, []),
        (V1, {"cpu,cpuacct/pod/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n"}, [2.5]),
        (V1, {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, [0.5]),
        (V1, {"cpu/pod/cpu.cfs_quota_us": "-1\n", "cpu/pod/cpu.cfs_period_us": "100000\n"}, []),
    ],
)
def test_the_limits_of_all_groups_are_read(
    tmp_path: Path, groups: str, files: dict[str, str], limits: list[float]
) -> None:
    assert list(cpu_limits(machine(tmp_path, groups, files))) == limits


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert list(cpu_limits(tmp_path)) == []


@pytest.mark.parametrize(
    ("affinity", "quota", "cpus"),
    [(8, "max", 8), (8, "250000", 2), (8, "199999", 1), (8, "50000", 1), (2, "400000", 2)],
)
def test_whole_cpus_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, affinity: int, quota: str, cpus: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)))
    assert available_cpus(machine(tmp_path, "0::/\n", {"cpu.max": f"{quota} 100000\n"})) == cpus
