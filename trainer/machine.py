"""``Machine``: one node as the run finds it, containers and their limits included."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from trainer.contract import Gpu, Machine
from trainer.nvml import Nvml

_UNLIMITED_V1 = 1 << 60  # cgroup v1 writes a number near 2^63 for "no limit"


def describe(*, gpus: bool, root: Path = Path("/")) -> Machine:
    """Return this node; *gpus* asks CUDA for its devices. *root* is where /proc and /sys lie."""
    return Machine(
        hostname=platform.node(),
        os=_os_name(root),
        kernel=platform.release(),
        cpu_model=_cpu_model(root),
        cores_total=os.cpu_count() or 1,
        cores_usable=usable_cores(root),
        memory_bytes=usable_memory(root),
        gpus=_gpus() if gpus else (),
    )


def usable_cores(root: Path = Path("/"), affinity: int | None = None) -> int:
    """Return the cores this process may use: affinity, lowered by a CPU quota of its cgroups.

    A quota of 2.5 cores counts as 2: a third busy thread would be stopped every period.
    """
    allowed = len(os.sched_getaffinity(0)) if affinity is None else affinity
    quotas = [quota for folder in _folders(root, "cpu") if (quota := _quota(folder)) is not None]
    return max(1, min([allowed, *(int(quota) for quota in quotas)]))


def usable_memory(root: Path = Path("/")) -> int:
    """Return the memory in bytes this process may use: the host's, lowered by cgroup limits."""
    total = 0
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 1024
    limits = [total] if total else []
    for folder in _folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdecimal() and int(text) < _UNLIMITED_V1:
                limits.append(int(text))
    return min(limits, default=0)


def _folders(root: Path, controller: str) -> list[Path]:
    """Return the cgroup folders that bind this process for *controller*, parents included.

    /proc/self/cgroup holds one ``0::/path`` line in version 2 and ``n:cpu,cpuacct:/path`` lines in
    version 1. Inside a container the path may be that of the host, so the mount itself counts too.
    """
    mount = root / "sys/fs/cgroup"
    found: list[Path] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        bases = [mount] if not names else [mount / controller, mount / names]
        for base in bases:
            parts = [part for part in path.split("/") if part not in {"", ".."}]
            found += [base.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    return found


def _quota(folder: Path) -> float | None:
    """Return the cores a cgroup *folder* grants, None when it sets no limit."""
    limit, _, period = _read(folder / "cpu.max").strip().partition(" ")
    if not limit:
        limit = _read(folder / "cpu.cfs_quota_us").strip()
        period = _read(folder / "cpu.cfs_period_us").strip()
    if not (limit.isdecimal() and period.isdecimal() and int(period)):
        return None  # "max" in version 2, -1 in version 1
    return int(limit) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _os_name(root: Path) -> str:
    for line in _read(root / "etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def _cpu_model(root: Path) -> str:
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model", "cpu model"}:
            return value.strip()
    return platform.processor() or platform.machine()


def _gpus() -> tuple[Gpu, ...]:
    found = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        nvml = nvml_of(number)
        found.append(
            Gpu(
                name=properties.name,
                memory_bytes=properties.total_memory,
                driver=nvml.driver() if nvml else "",
            )
        )
    return tuple(found)


def nvml_of(number: int) -> Nvml | None:
    """Return the management handle of CUDA device *number*, found by UUID.

    CUDA_VISIBLE_DEVICES renumbers CUDA's devices and not the management library's.
    """
    uuid = getattr(torch.cuda.get_device_properties(number), "uuid", None)
    return Nvml.of(f"GPU-{uuid}") if uuid is not None else None
