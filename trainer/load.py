"""CPU time of this run and of everybody else, and the clocks of its devices.

Foreign load is the busy time of the cores this process may use (/proc/stat, stolen time included)
less the CPU time of the run's own ranks. /proc/stat counts in ticks of 10 ms per core: over a
window of 0.3 s that is an error of up to 0.03 cores each.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from trainer.nvml import Nvml

_TICK = os.sysconf("SC_CLK_TCK")
_IDLE_FIELDS = (3, 4)  # idle, iowait
_GUEST_FIELDS = 8  # guest time is counted in user time already


def busy_seconds(text: str, cores: set[int]) -> float:
    """Return the seconds *cores* were busy since boot, from the *text* of /proc/stat."""
    ticks = 0
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cores:
            fields = [int(field) for field in rest.split()[:_GUEST_FIELDS]]
            ticks += sum(fields) - sum(fields[i] for i in _IDLE_FIELDS)
    return ticks / _TICK


def own_seconds() -> float:
    """Return the CPU seconds of this process, all threads and its living children included."""
    return time.process_time() + sum(_process_seconds(pid) for pid in _children())


def _children() -> list[str]:
    pid = os.getpid()
    path = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return path.read_text().split()
    except OSError:  # kernels without CONFIG_PROC_CHILDREN: loader workers count as foreign
        return []


def _process_seconds(pid: str) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it ended meanwhile
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICK


class LoadMeter:
    """CPU seconds between ``start`` and ``stop``: of the usable cores, and of this rank."""

    def __init__(self) -> None:
        """Watch the cores this process may run on."""
        self._cores = os.sched_getaffinity(0)
        self._stat = Path("/proc/stat")
        self._begin = (0.0, 0.0)

    def start(self) -> None:
        """Begin counting."""
        self._begin = self._now()

    def stop(self) -> tuple[float, float]:
        """Return (busy seconds of the usable cores, CPU seconds of this rank) since ``start``."""
        busy, own = self._now()
        return busy - self._begin[0], own - self._begin[1]

    def _now(self) -> tuple[float, float]:
        return busy_seconds(self._stat.read_text(), self._cores), own_seconds()


class Signals:
    """Clock and throttling of the device a rank uses, read right after a window."""

    def __init__(self, nvml: Nvml | None = None) -> None:
        """Read the GPU through *nvml*, or without one the CPU's clock."""
        self._nvml = nvml
        root = Path("/sys/devices/system/cpu")
        cores = sorted(os.sched_getaffinity(0))
        self._frequencies = [root / f"cpu{core}/cpufreq/scaling_cur_freq" for core in cores]

    def read(self) -> tuple[float, bool]:
        """Return (clock in MHz, 0 when unknown; whether the GPU throttles)."""
        if self._nvml is not None:
            return self._nvml.clock_mhz(), self._nvml.throttled()
        try:  # the fastest core is the one that was just computing
            return max(int(path.read_text()) for path in self._frequencies) / 1000, False
        except (OSError, ValueError):  # virtual machines and containers hide it
            return 0.0, False


def process_age() -> float:
    """Return the seconds since this process was started, its interpreter's start included.

    proc(5), /proc/self/stat field 22, counts ticks of 10 ms from boot.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICK
