"""The number of CPUs that this process may use: its affinity, and the limit of its control groups.

A container with a CPU limit sees all CPUs of its machine. The kernel pauses its processes once their quota is used up,
so more workers than whole CPUs of the limit only add pauses.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
CGROUP = "sys/fs/cgroup"
CONTROLLER = "cpu"


def available_cpus(root: Path = ROOT) -> int:
    """Return the whole CPUs that this process may use, at least 1. ``root``: where ``proc`` and ``sys`` are."""
    affinity = len(os.sched_getaffinity(0))
    return max(1, int(min([affinity, *cpu_limits(root)])))


def cpu_limits(root: Path = ROOT) -> Iterator[float]:
    """Yield the limits of the control groups of this process, in CPUs: its own, and those that contain it.

    Reads version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``). In a container, the path of a group may be that
    of the host, so directories that do not exist are skipped.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux, or no permission
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        names = controllers.split(",")
        if controllers and CONTROLLER not in names:
            continue
        mounts = [root / CGROUP / name for name in {controllers, CONTROLLER}] if controllers else [root / CGROUP]
        for mount in mounts:
            inside = PurePosixPath(group.lstrip("/"))
            for folder in (inside, *inside.parents):
                yield from _limit(mount / folder, is_v2=not controllers)


def _limit(folder: Path, *, is_v2: bool) -> Iterator[float]:
    """Yield the limit of one group, if it has one."""
    try:
        if is_v2:
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)
    except (OSError, ValueError):  # no limit of CPUs in this group
        return
