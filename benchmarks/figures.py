"""What the ``make bench-…`` objects share: figures against their targets, and where they ran."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Targets = Mapping[str, tuple[str, float]]
"""By figure: ``>=`` or ``<=``, and the promised limit."""


def missed(figures: Mapping[str, Any], targets: Targets) -> list[str]:
    """Return the *figures* that do not keep what *targets* promise; absent ones are not judged."""
    found = []
    for name, (sign, limit) in targets.items():
        value = figures.get(name)
        if value is None:
            continue
        kept = value >= limit if sign == ">=" else value <= limit
        if not kept:
            found.append(f"{name} = {value:.4g}, promised {sign} {limit:g}")
    return found


def machine() -> dict[str, Any]:
    """Return what the figures were measured on: CPU model, cores, load at this moment."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    load = round(os.getloadavg()[0], 2)
    return {"cpu": models[0] if models else "", "cores": os.cpu_count(), "load_before": load}
