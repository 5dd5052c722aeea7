"""Facts of the host: system, processor, topology, memory, and the limits of its cgroups."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from trainer.machine import describe, usable_cores, usable_memory
from trainer.probes.found import Found, Place, read

_CPUS = "sys/devices/system/cpu"
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "sve", "asimd")
"""Instruction sets that decide how fast a matrix product can be."""


def host(place: Place) -> Found:
    """Return what the machine is."""
    found, root = Found(), place.root
    machine = describe(gpus=False, root=root)
    found.fact("os.name", machine.os, source="/etc/os-release")
    found.fact("os.kernel", machine.kernel, source="uname")
    found.fact("os.architecture", platform.machine(), source="uname")
    found.fact("cpu.model", machine.cpu_model, source="/proc/cpuinfo")
    fields = _first_cpu(root)
    have = set(fields.get("flags", fields.get("Features", "")).split())
    sets = " ".join(name for name in _FLAGS if name in have)
    found.fact("cpu.instruction_sets", sets or "none of those looked for", source="/proc/cpuinfo")
    found.fact("cpu.microcode", fields.get("microcode"), source="/proc/cpuinfo")
    virtual = "yes" if "hypervisor" in have else "no"
    found.fact("cpu.virtual", virtual, source="/proc/cpuinfo: flag hypervisor")
    _topology(found, root)
    _frequency(found, root, fields)
    _memory(found, root)
    found.fact("os.uptime", read(root / "proc/uptime").partition(".")[0], unit="s",
               source="/proc/uptime", stable=False)  # fmt: skip
    return found


def _first_cpu(root: Path) -> dict[str, str]:
    block = read(root / "proc/cpuinfo").split("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _topology(found: Found, root: Path) -> None:
    folders = sorted((root / _CPUS).glob("cpu[0-9]*"))
    sockets, cores = set(), set()
    for folder in folders:
        socket = read(folder / "topology/physical_package_id")
        sockets.add(socket)
        cores.add((socket, read(folder / "topology/core_id")))
    found.fact("cpu.threads", len(folders) or os.cpu_count(), source=f"/{_CPUS}")
    if folders:
        found.fact("cpu.sockets", len(sockets), source=f"/{_CPUS}/*/topology")
        found.fact("cpu.cores", len(cores), source=f"/{_CPUS}/*/topology")
    nodes = sorted((root / "sys/devices/system/node").glob("node[0-9]*"))
    for node in nodes:
        found.fact(f"numa.{node.name}", read(node / "cpulist"), source=f"{node.name}/cpulist")
    found.fact("numa.nodes", len(nodes) or 1, source="/sys/devices/system/node")
    for index in sorted((root / _CPUS / "cpu0/cache").glob("index[0-9]*")):
        kind = {"Data": "d", "Instruction": "i"}.get(read(index / "type"), "")
        shared = read(index / "shared_cpu_list")
        size = f"{read(index / 'size')} shared by {shared}"
        found.fact(f"cache.L{read(index / 'level')}{kind}", size, source=f"cpu0/cache/{index.name}")


def _frequency(found: Found, root: Path, fields: dict[str, str]) -> None:
    folder = root / _CPUS / "cpu0/cpufreq"
    source = f"/{_CPUS}/cpu0/cpufreq"
    governor = read(folder / "scaling_governor")
    found.fact("cpu.governor", governor or "hidden", source=source)
    if governor and governor not in {"performance", "schedutil"}:
        found.problem(
            "host", f"frequency governor {governor!r}", "cpupower frequency-set -g performance"
        )
    for name in ("min", "max"):
        text = read(folder / f"cpuinfo_{name}_freq")
        if text.isdecimal():
            found.fact(f"cpu.{name}_clock", int(text) / 1000, unit="MHz", source=source)
    found.fact(
        "cpu.clock_now", fields.get("cpu MHz"), unit="MHz", source="/proc/cpuinfo", stable=False
    )


def _memory(found: Found, root: Path) -> None:
    lines = [line.split() for line in read(root / "proc/meminfo").splitlines()]
    values = {parts[0].rstrip(":"): int(parts[1]) for parts in lines if len(parts) > 1}
    source = "/proc/meminfo"
    # In whole MiB: what the kernel keeps for itself changes with each of its releases.
    found.fact("memory.total", values.get("MemTotal", 0) // 1024, unit="MiB", source=source)
    free = values.get("MemAvailable", 0) // 1024
    found.fact("memory.available", free, unit="MiB", source=source, stable=False)
    found.fact("memory.swap", values.get("SwapTotal", 0) // 1024, unit="MiB", source=source)
    found.fact("memory.huge_pages", values.get("HugePages_Total", 0), source=source)
    size = values.get("Hugepagesize", 0)
    found.fact("memory.huge_page_size", size, unit="KiB", source=source)
    text = read(root / "sys/kernel/mm/transparent_hugepage/enabled")
    chosen = text.partition("[")[2].partition("]")[0]
    found.fact("memory.transparent_huge_pages", chosen, source="transparent_hugepage/enabled")


def limits(place: Place) -> Found:
    """Return what of the machine this process may use."""
    found, root = Found(), place.root
    allowed = len(os.sched_getaffinity(0))
    usable = usable_cores(root)
    found.fact("limits.affinity", allowed, unit="cores", source="sched_getaffinity")
    found.fact("limits.cores", usable, unit="cores", source="affinity and cgroup CPU quota")
    found.fact(
        "limits.memory", usable_memory(root) >> 20, unit="MiB", source="/proc/meminfo and cgroup"
    )
    version = "2" if (root / "sys/fs/cgroup/cgroup.controllers").exists() else "1"
    found.fact("limits.cgroup_version", version, source="/sys/fs/cgroup")
    if usable < allowed:
        found.problem(
            "limits",
            f"a CPU quota leaves {usable} of {allowed} cores: threads beyond it are stopped",
            "raise the container's or job's CPU limit, or start fewer threads",
        )
    return found
