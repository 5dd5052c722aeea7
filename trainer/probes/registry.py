"""Every probe by name, in the order in which they are made, with the seconds it may take."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from trainer.probes.found import Probe


@dataclass(kw_only=True, slots=True, frozen=True)
class Entry:
    """Where a probe is and how long it may take."""

    module: str
    function: str
    limit_s: float
    """Seconds after which it hangs and is ended; three to five times what it needs."""


def _entry(module: str, function: str, limit_s: float) -> Entry:
    return Entry(module=f"trainer.probes.{module}", function=function, limit_s=limit_s)


PROBES: dict[str, Entry] = {
    # First: afterwards our own programs are on the GPUs.
    "gpu": _entry("facts_gpu", "gpu", 15),
    "host": _entry("facts_host", "host", 5),
    "limits": _entry("facts_host", "limits", 5),
    "storage": _entry("facts_places", "storage", 5),
    "permissions": _entry("facts_places", "permissions", 5),
    "time": _entry("facts_places", "time_sync", 8),
    "containers": _entry("facts_programs", "containers", 12),
    "slurm": _entry("facts_programs", "slurm", 15),
    "software": _entry("facts_software", "software", 60),
    "operators": _entry("facts_software", "operators", 40),
    "memory": _entry("bench_cpu", "memory", 20),
    "matmul": _entry("bench_cpu", "matmul", 25),
    "gpu_compute": _entry("bench_gpu", "compute", 30),
    "gpu_memory": _entry("bench_gpu_memory", "memory", 40),
    "gpu_transfer": _entry("bench_gpu", "transfer", 20),
    "disk": _entry("bench_io", "disk", 20),
    "loader": _entry("bench_io", "loader", 40),
    "collectives": _entry("bench_group", "collectives", 40),
    "mpi": _entry("bench_mpi", "mpi", 40),
}


def find(name: str) -> Probe:
    """Return the probe called *name*, importing its module. Raises ``KeyError`` for another."""
    entry = PROBES[name]
    probe: Probe = getattr(importlib.import_module(entry.module), entry.function)
    return probe
