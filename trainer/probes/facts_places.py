"""Facts of folders, of what a profiler may do here, and of the clock."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

from trainer.probes.found import Found, Place, read

_GIB = 1 << 30
_NETWORK = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "glusterfs", "fuse.sshfs")
_STA_UNSYNC = 0x40
"""adjtimex(2): the kernel believes that nobody disciplines its clock."""
_LOOSE_US = 100_000
"""Clock error beyond which times of two nodes cannot be put in one order."""


def storage(place: Place) -> Found:
    """Return free space and file-system type of the folders of runs and data."""
    found = Found()
    mounts = _mounts(place.root)
    for name, folder in (("runs", place.run_dir), ("data", place.data_dir)):
        if not folder.is_dir():
            found.problem("storage", f"folder of {name} {folder} does not exist", "create it")
            continue
        mount, kind = mount_of(folder, mounts)
        found.fact(f"storage.{name}.type", kind or "unknown", source=f"/proc/self/mounts: {mount}")
        network = "network" if kind in _NETWORK else "local"
        found.fact(f"storage.{name}.kind", network, source="type of the file system")
        usage = shutil.disk_usage(folder)
        total, free = round(usage.total / _GIB, 1), round(usage.free / _GIB, 1)
        found.fact(f"storage.{name}.size", total, unit="GiB", source="statvfs")
        found.fact(f"storage.{name}.free", free, unit="GiB", source="statvfs", stable=False)
    shared = place.root / "dev/shm"
    if shared.is_dir():
        size = shutil.disk_usage(shared).total >> 20
        found.fact("storage.shm", size, unit="MiB", source="statvfs /dev/shm")
    return found


def _mounts(root: Path) -> dict[str, str]:
    lines = (line.split() for line in read(root / "proc/self/mounts").splitlines())
    return {parts[1].replace("\\040", " "): parts[2] for parts in lines if len(parts) > 2}  # noqa: PLR2004 - device, mount, type


def mount_of(folder: Path, mounts: dict[str, str]) -> tuple[str, str]:
    """Return (mount point, file-system type) of *folder*; the deepest mount above it holds it."""
    here = folder.resolve()
    above = [str(path) for path in (here, *here.parents) if str(path) in mounts]
    return (above[0], mounts[above[0]]) if above else ("", "")


def permissions(place: Place) -> Found:
    """Return what the kernel and the driver let a profiler do."""
    found, root = Found(), place.root
    perf = read(root / "proc/sys/kernel/perf_event_paranoid")
    found.fact("profiler.perf_event_paranoid", perf, source="/proc/sys/kernel")
    if perf and int(perf) > 2:  # noqa: PLR2004 - kernel documentation, perf_event_paranoid
        found.problem(
            "permissions",
            f"perf_event_paranoid = {perf}: no CPU sampling for ordinary users",
            "sysctl kernel.perf_event_paranoid=2, or leave CPU sampling off",
        )
    found.fact(
        "profiler.ptrace_scope", read(root / "proc/sys/kernel/yama/ptrace_scope") or "no Yama",
        source="/proc/sys/kernel/yama",
    )  # fmt: skip
    parameters = read(root / "proc/driver/nvidia/params")
    for line in parameters.splitlines():
        name, _, value = line.partition(":")
        if name == "RmProfilingAdminOnly":
            allowed = "everybody" if value.strip() == "0" else "root alone"
            found.fact("profiler.gpu_counters", allowed, source="/proc/driver/nvidia/params")
            if value.strip() != "0" and os.geteuid():
                found.problem(
                    "permissions",
                    "GPU counters are for root alone: ncu fails with ERR_NVGPUCTRPERM",
                    "modprobe option NVreg_RestrictProfilingToAdminUsers=0, then load nvidia anew",
                )
    return found


class _Timex(ctypes.Structure):
    """Head of struct timex, adjtimex(2); the rest is room for what the kernel writes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_byte * 256),
    )


def time_sync(_place: Place) -> Found:
    """Return whether somebody disciplines the clock, and how far off it may be."""
    found, timex = Found(), _Timex()
    library = ctypes.CDLL(None, use_errno=True)
    if library.adjtimex(ctypes.byref(timex)) < 0:
        found.problem("time", f"adjtimex: {os.strerror(ctypes.get_errno())}")
        return found
    synchronised = not timex.status & _STA_UNSYNC
    found.fact("time.synchronised", "yes" if synchronised else "no", source="adjtimex")
    found.fact("time.max_error", timex.maxerror, unit="us", source="adjtimex", stable=False)
    if chrony := shutil.which("chronyc"):
        done = subprocess.run(
            [chrony, "-n", "-c", "tracking"], capture_output=True, text=True, timeout=5, check=False
        )
        parts = done.stdout.strip().split(",")
        if not done.returncode and len(parts) > 4:  # noqa: PLR2004 - reference, name, stratum, time, offset
            source = "chronyc tracking"
            found.fact("time.offset", parts[4], unit="s", source=source, stable=False)
    if not synchronised or timex.maxerror > _LOOSE_US:
        found.problem(
            "time",
            f"the clock is not synchronised (error up to {timex.maxerror / 1e6:.3g} s)",
            "start chrony or systemd-timesyncd; in a virtual machine its host may do it unseen",
        )
    return found
