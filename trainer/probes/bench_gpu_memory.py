"""Memory of each visible GPU: a copy, reads by access pattern, and a copy against occupancy.

Bytes are useful ones: what the work reads and writes, not what the memory moves for it. A read of
4 bytes alone in its sector moves 32.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from trainer.machine import nvml_of
from trainer.probes.found import Found, Place
from trainer.probes.gpus import every_gpu, repeat_on
from trainer.probes.occupancy import (
    FRACTIONS,
    MOST_REGISTERS,
    WARP,
    Grid,
    grid_of,
    warps_by_registers,
)
from trainer.probes.timing import Limit, rate

_MEMORY_CLOCK = 2
_DEVICE = "cuda"
_COUNT = 1 << 28
"""Floats of an array: 1 GiB, far beyond any cache."""
_PAIR = 8
"""Useful bytes of an element of float32: read once, written once."""
_SWEEP_S = 0.25
_PART = 32  # torch's patterns read every so manieth element


@dataclass(kw_only=True, slots=True, frozen=True)
class Arrays:
    """What is copied on one GPU, and where its measurements go."""

    found: Found
    """Gets the measurements."""
    place: Place
    """How thoroughly."""
    number: int
    """The GPU."""
    source: torch.Tensor
    """2^k floats."""
    target: torch.Tensor
    """As many."""
    limit: Limit
    """Bandwidth of the memory."""

    def add(
        self,
        name: str,
        work: Callable[[], object],
        amount: int,
        *,
        seconds: float = _SWEEP_S,
        more: str = "",
        doubt: str = "",
    ) -> None:
        """Measure *work*, which moves *amount* useful bytes; *more* explains its limit."""
        timed, disturbed = repeat_on(self.number, work, self.place, seconds=seconds)
        source = "; ".join(part for part in (self.limit.source, more) if part)
        made = rate(
            f"gpu{self.number}.{name}",
            timed,
            amount=amount,
            unit="B/s",
            limit=replace(self.limit, source=source),
            doubt="; ".join(part for part in (disturbed, doubt) if part),
        )
        self.found.measurements.append(made)


def memory(place: Place) -> Found:
    """Measure a copy on the GPU, and the sweep of patterns and occupancy."""
    found = Found()
    with tempfile.TemporaryDirectory(prefix="trainyard-probe-") as folder:
        os.environ.setdefault("TRITON_CACHE_DIR", folder)  # a home may be missing or read-only
        for number, _ in every_gpu():
            _measure(found, number, place)
    return found


def _measure(found: Found, number: int, place: Place) -> None:
    source = torch.ones(_COUNT, device=_DEVICE)
    arrays = Arrays(
        found=found,
        place=place,
        number=number,
        source=source,
        target=torch.empty_like(source),
        limit=_bandwidth(number),
    )
    copy = functools.partial(arrays.target.copy_, source)
    arrays.add("copy", copy, _PAIR * _COUNT, seconds=1.0)
    sweep(arrays, torch.cuda.get_device_properties(number))


def sweep(arrays: Arrays, properties: Any) -> None:
    """Measure patterns and occupancy with Triton's kernel, or patterns alone through torch.

    *properties* are torch's of the device. Without Triton, or a compiler for it, what was measured
    says so; that is no problem of the node.
    """
    most = properties.max_threads_per_multi_processor // WARP
    count = properties.multi_processor_count
    try:
        from trainer.probes import gpu_patterns

        full = grid_of(1.0, most)
        # Compiled, and seen to run, before anything is measured with it.
        run = functools.partial(gpu_patterns.launch, arrays.source, arrays.target)
        compiled = [run(pattern, full, count) for pattern in gpu_patterns.PATTERNS]
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - a compiler behind Triton may raise anything
        _through_torch(arrays, f"{type(error).__name__}: {error}".splitlines()[0])
        return
    amount = _PAIR * arrays.source.numel()
    for pattern in gpu_patterns.PATTERNS:
        arrays.add(f"read_{pattern}", functools.partial(run, pattern, full, count), amount)
    for percent, fraction in FRACTIONS.items():
        grid = grid_of(fraction, most)
        arrays.add(
            f"copy_occupancy_{percent}",
            functools.partial(run, "in_order", grid, count),
            amount,
            more=f"{grid.resident} of {most} warps per SM",
            doubt=_unreached(grid, compiled[0], properties),
        )


def _unreached(grid: Grid, compiled: Any, properties: Any) -> str:
    """Return why *grid* is not resident as a whole; empty when it is."""
    registers = getattr(compiled, "n_regs", None) or MOST_REGISTERS
    room = warps_by_registers(registers, properties.regs_per_multiprocessor)
    if grid.resident <= room:
        return ""
    return f"{registers} registers per thread leave room for {room} warps of {grid.resident}"


def _through_torch(arrays: Arrays, why: str) -> None:
    """Measure reads by pattern with torch, whose index moves through memory as well."""
    source, count = arrays.source, arrays.source.numel()
    part = count // _PART
    order = torch.arange(part, device=source.device)
    patterns = {
        "in_order": order,
        "strided": order * _PART,
        "random": torch.randint(0, count, (part,), device=source.device),
    }
    out = torch.empty(part, device=source.device)
    for pattern, index in patterns.items():
        arrays.add(
            f"read_{pattern}",
            functools.partial(torch.index_select, source, 0, index, out=out),
            (_PAIR + index.element_size()) * part,
            more=f"through torch.index_select, 8 bytes of index counted: no Triton ({why})",
        )


def _bandwidth(number: int) -> Limit:
    """Bus width x clock x 2: memory transfers on both edges of the clock that NVML names."""
    nvml = nvml_of(number)
    width = nvml.ask("nvmlDeviceGetMemoryBusWidth") if nvml else []
    clock = nvml.ask("nvmlDeviceGetMaxClockInfo", _MEMORY_CLOCK) if nvml else []
    if not (width and clock):
        return Limit(source="the driver does not say bus width and memory clock")
    source = f"{width[0]} bit x {clock[0]} MHz x 2, from NVML"
    return Limit(value=width[0] / 8 * clock[0] * 1e6 * 2, source=source)
