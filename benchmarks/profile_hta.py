"""Beside HolisticTraceAnalysis, on the same torch.profiler trace of a million events.

Each runs in a fresh process of its own environment, from the file to its numbers. Theirs: load,
temporal breakdown, communication overlap. Ours does more (gaps, kernels, verdict) in the same run.
Old NCCL names are written, since HTA does not know the new ones (its issue 360), and no steps, so
that both take the span of the device's work.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.profile_scale import analysed, large, size
from benchmarks.profile_writers import write_torch

PYTHON = Path(__file__).resolve().parents[1] / ".trainyard" / "envs" / "hta" / "bin" / "python"
CHILD = """
import json, sys, warnings
warnings.simplefilter("ignore")
from hta.trace_analysis import TraceAnalysis
found = TraceAnalysis(trace_files={0: sys.argv[1]}, trace_dir="")
times = found.get_temporal_breakdown(visualize=False).iloc[0]
overlap = found.get_comm_comp_overlap(visualize=False).iloc[0]
print(json.dumps({
    "idle": float(times["idle_time(us)"]), "compute": float(times["compute_time(us)"]),
    "window": float(times["kernel_time(us)"]), "overlap": float(overlap["comp_comm_overlap_pctg"]),
}))
"""


def theirs(path: Path) -> dict[str, Any]:
    """Return HTA's numbers with its seconds; microseconds and per cent become our units."""
    began = time.perf_counter()
    done = subprocess.run(
        [str(PYTHON), "-c", CHILD, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        cwd=path.parent,
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {
        "seconds": time.perf_counter() - began,
        "overlap": found["overlap"] / 100,
        **{name: 1000 * found[name] for name in ("idle", "compute", "window")},
    }


def figures(*, events: int) -> dict[str, Any]:
    """Return the figures of this module, or why there are none."""
    if not PYTHON.exists():
        return {"vs_hta": None, "hta_missing": "python3 requirements/sync.py hta installs it"}
    made = replace(large(events, nccl="old"), ranges=[])
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as name:
        path = write_torch(Path(name) / "rank0.json", made)
        ours, other = analysed(path), theirs(path)
    return {
        "vs_hta": other["seconds"] / ours["seconds"],
        "hta_events": size(made),
        "hta_seconds": other["seconds"],
        "our_seconds": ours["seconds"],
        "our_peak_gb": ours["peak_bytes"] / 1e9,
        "hta_worst_difference": _difference(ours, other),
    }


def _difference(ours: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the largest relative difference of the numbers that both define alike.

    Idle in all, compute in all and the span; the overlap, which HTA rounds to 0.01 %.
    """
    parts = ours["parts"]
    pairs = [(parts[name], other[name]) for name in ("idle", "compute", "window")]
    pairs.append((ours["overlap"], other["overlap"]))
    return max(abs(a - b) / b for a, b in pairs)
