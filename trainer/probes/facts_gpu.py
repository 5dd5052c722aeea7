"""Facts of the NVIDIA GPUs of the node, from the driver alone: no CUDA context is made.

So whatever computes on a GPU while this runs is somebody else's. Questions and constants: NVML API
reference. A GPU that does not know a question (MIG instances, old drivers) leaves the fact out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from trainer.nvml import Nvml
from trainer.probes.found import Found, Place
from trainer.probes.supervisor import FOREIGN_FACT

_MOST_LINKS = 18
_SM, _MEMORY = 1, 2
_UNCORRECTED, _VOLATILE, _AGGREGATE = 1, 0, 1
_SOURCE = "NVML"
_ON = {0: "off", 1: "on"}
_LEVELS = {0: "one board", 10: "one PCIe switch", 20: "several PCIe switches",
           30: "one host bridge", 40: "one NUMA node", 50: "across sockets"}  # fmt: skip


def gpu(_place: Place) -> Found:
    """Return what the driver says of every GPU."""
    return describe(Nvml.every())


def describe(gpus: Sequence[Nvml]) -> Found:
    """Return the facts of *gpus*, and what is wrong with them."""
    found = Found()
    found.fact("gpu.count", len(gpus), source=_SOURCE)
    if not gpus:
        return found
    found.fact("gpu.driver", gpus[0].driver(), source=_SOURCE)
    if version := gpus[0].ask("nvmlDeviceGetCudaComputeCapability", values=2):
        found.fact("gpu.compute_capability", f"{version[0]}.{version[1]}", source=_SOURCE)
    for number, one in enumerate(gpus):
        name = f"gpu{number}"
        found.fact(f"{name}.model", one.text("nvmlDeviceGetName"), source=_SOURCE)
        found.fact(f"{name}.uuid", one.text("nvmlDeviceGetUUID"), source=_SOURCE)
        _modes(found, name, one)
        _errors(found, name, one)
        _links(found, name, one)
        _clocks(found, name, one)
        _others(found, name, one)
        for far in range(number):
            level = one.distance(gpus[far])
            text = _LEVELS.get(level, str(level)) if level is not None else None
            found.fact(f"gpu{far}.path_to_{name}", text, source=_SOURCE)
    return found


def _modes(found: Found, name: str, one: Nvml) -> None:
    for fact, symbol, count in (
        ("mig", "nvmlDeviceGetMigMode", 2),
        ("ecc", "nvmlDeviceGetEccMode", 2),
        ("persistence", "nvmlDeviceGetPersistenceMode", 1),
    ):
        if told := one.ask(symbol, values=count):
            found.fact(f"{name}.{fact}", _ON.get(told[0], str(told[0])), source=_SOURCE)
            if fact == "persistence" and not told[0]:
                found.problem("gpu", f"{name}: persistence mode is off", "nvidia-smi -pm 1")


def _errors(found: Found, name: str, one: Nvml) -> None:
    for kind, counter in (("since_boot", _VOLATILE), ("ever", _AGGREGATE)):
        told = one.ask(
            "nvmlDeviceGetTotalEccErrors", _UNCORRECTED, counter, kind=ctypes.c_ulonglong
        )
        if told:
            stable = counter == _AGGREGATE
            found.fact(f"{name}.ecc_errors_{kind}", told[0], source=_SOURCE, stable=stable)
            if told[0] and counter == _VOLATILE:
                what = f"{name}: {told[0]} uncorrected memory errors since the driver was loaded"
                found.problem(
                    "gpu", what, "drain the node and reset the GPU; replace it if so again"
                )
    if rows := one.ask("nvmlDeviceGetRemappedRows", values=4):
        corrected, uncorrected, pending, failed = rows
        found.fact(f"{name}.rows_remapped", corrected + uncorrected, source=_SOURCE)
        if pending:
            found.problem("gpu", f"{name}: a row remap waits for a reset", "reset the GPU")
        if failed:
            found.problem("gpu", f"{name}: a row could not be remapped", "replace the GPU")


def _links(found: Found, name: str, one: Nvml) -> None:
    for fact, now, most in (
        ("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration",
         "nvmlDeviceGetMaxPcieLinkGeneration"),
        ("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth", "nvmlDeviceGetMaxPcieLinkWidth"),
    ):  # fmt: skip
        current, largest = one.ask(now), one.ask(most)
        if not (current and largest):
            continue
        # The generation falls while a GPU idles; the width does not.
        stable = fact == "pcie_width"
        found.fact(f"{name}.{fact}", current[0], source=_SOURCE, stable=stable)
        found.fact(f"{name}.{fact}_max", largest[0], source=_SOURCE)
        if stable and current[0] < largest[0]:
            what = f"{name}: PCIe runs {current[0]} of {largest[0]} lanes"
            found.problem("gpu", what, "seat the card anew; look for errors in dmesg and lspci -vv")
    states = [one.ask("nvmlDeviceGetNvLinkState", link) for link in range(_MOST_LINKS)]
    known = [state[0] for state in states if state]
    if known:
        up = sum(bool(state) for state in known)
        found.fact(f"{name}.nvlinks", f"{up} of {len(known)}", source=_SOURCE)
        if 0 < up < len(known):
            what = f"{name}: {len(known) - up} of {len(known)} NVLinks are down"
            found.problem("gpu", what, "nvidia-smi nvlink -s; reset the GPU, then the node")


def _clocks(found: Found, name: str, one: Nvml) -> None:
    for fact, kind in (("clock", _SM), ("memory_clock", _MEMORY)):
        if now := one.ask("nvmlDeviceGetClockInfo", kind):
            found.fact(f"{name}.{fact}", now[0], unit="MHz", source=_SOURCE, stable=False)
        for word, symbol in (
            ("max", "nvmlDeviceGetMaxClockInfo"),
            ("set", "nvmlDeviceGetApplicationsClock"),
        ):
            if told := one.ask(symbol, kind):
                found.fact(f"{name}.{fact}_{word}", told[0], unit="MHz", source=_SOURCE)
    if width := one.ask("nvmlDeviceGetMemoryBusWidth"):
        found.fact(f"{name}.memory_bus", width[0], unit="bit", source=_SOURCE)
    limit = one.ask("nvmlDeviceGetEnforcedPowerLimit")
    normal = one.ask("nvmlDeviceGetPowerManagementDefaultLimit")
    if limit:
        found.fact(f"{name}.power_limit", limit[0] / 1000, unit="W", source=_SOURCE)
    if limit and normal and limit[0] < normal[0]:
        what = f"{name}: power limit {limit[0] / 1000:g} W, {normal[0] / 1000:g} W by default"
        found.problem("gpu", what, f"nvidia-smi -pl {normal[0] // 1000}")


def _others(found: Found, name: str, one: Nvml) -> None:
    busy = one.processes()
    text = ", ".join(f"pid {pid} ({held >> 20} MiB)" for pid, held in busy) or "none"
    found.fact(f"{name}.{FOREIGN_FACT}", text, source=_SOURCE, stable=False)
    if busy:
        found.problem(
            "gpu",
            f"{name}: used by {text} before we began; measurements there do not count",
            "end that program, or probe while the GPU is free",
        )
