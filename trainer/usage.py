"""What rank 0 uses at this moment, for dashboards; results take nothing from here."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import torch

from trainer.machine import nvml_of
from trainer.nvml import Nvml

_PAGE = os.sysconf("SC_PAGE_SIZE")


def now(device: torch.device) -> dict[str, float]:
    """Return ``resident_bytes`` and, on a GPU, ``gpu_memory_bytes`` and ``gpu_utilisation``.

    Costs a read of /proc/self/statm and one question to the driver; waits for nothing. The GPU's
    memory is what torch's allocator holds, its utilisation a share from 0 to 1 and absent where
    the driver does not say.
    """
    found = {"resident_bytes": float(resident_bytes())}
    if device.type == "cuda":
        found["gpu_memory_bytes"] = float(torch.cuda.memory_reserved(device))
        nvml = _nvml(device.index or 0)
        share = nvml.utilisation() if nvml else None
        if share is not None:
            found["gpu_utilisation"] = share
    return found


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int:
    """Return the resident memory of this process: proc(5), second field, in pages."""
    return int(statm.read_text().split()[1]) * _PAGE


@functools.cache
def _nvml(number: int) -> Nvml | None:
    return nvml_of(number)
