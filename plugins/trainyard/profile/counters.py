"""Hardware counters of kernels, as Nsight Compute measures them."""

from __future__ import annotations

from dataclasses import dataclass

from trainyard.profile.names import base_name, normalised

TIME = "seconds"
COMPUTE_SOL = "compute_sol"
MEMORY_SOL = "memory_sol"
DRAM_SOL = "dram_sol"
DRAM_BYTES = "dram_bytes"
OCCUPANCY = "occupancy"
TENSOR = "tensor_active"
FADD, FMUL, FFMA = "fadd", "fmul", "ffma"


@dataclass(kw_only=True, slots=True, frozen=True)
class Counters:
    """Hardware counters of one kernel name, means over its profiled calls weighted by time."""

    name: str
    """Normalised name."""
    calls: int
    """Calls that were profiled."""
    values: dict[str, float]
    """By the constants of this module; absent where the chip has no such metric. Seconds, bytes and
    instructions are per call, the rest is per cent."""


def matching(name: str, counters: dict[str, Counters]) -> Counters | None:
    """Return the counters of kernel *name*: of that name, else of the only one of its function."""
    exact = counters.get(normalised(name))
    if exact is not None:
        return exact
    base = base_name(name)
    same = [found for key, found in counters.items() if base_name(key) == base]
    return same[0] if len(same) == 1 else None
