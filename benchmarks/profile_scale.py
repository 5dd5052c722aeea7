"""How fast and in how much memory a large trace is read and analysed, in a process of its own.

The trace is an nsys SQLite export of one rank: kernels on two streams, collectives, copies, calls
and ranges. ``seconds`` is that process from start to end, interpreter and imports included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.profile_generator import US, Segment, Timeline, timeline
from benchmarks.profile_nsys import write_nsys

BUSY = [
    Segment("compute", 60 * US, 12),
    Segment("overlap", 20 * US, 4),
    Segment("host", 5 * US),
    Segment("compute", 30 * US, 2),
    Segment("comm", 4 * US),
]
STEP = [Segment("data", 300 * US), Segment("h2d", 100 * US), *(BUSY * 250)]

CHILD = """
import json, re, sys
from pathlib import Path
from trainyard.profile.analysis import analyse
from trainyard.profile.readers import read_trace
found = analyse(read_trace([Path(sys.argv[1])]))
frame = found.ranks[0].frame
# Not getrusage: a child inherits the peak of the process that started it.
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(json.dumps({
    "events": found.trace.total,
    "peak_bytes": 1024 * int(peak[1]),
    "parts": {name: float(frame[name].sum()) for name in frame},
    "overlap": found.ranks[0].fractions["overlap"].value,
    "bound": found.verdict.bound,
}))
"""


def size(made: Timeline) -> int:
    """Return the events of *made*."""
    return len(made.device["start"]) + len(made.calls["start"]) + len(made.ranges)


def large(events: int, *, nccl: str = "new") -> Timeline:
    """Return a timeline of about *events* events."""
    few = timeline(STEP, steps=2, nccl=nccl)
    return timeline(STEP, steps=max(2, round(2 * events / size(few))), nccl=nccl)


def analysed(path: Path) -> dict[str, Any]:
    """Analyse *path* in a fresh process; return what it found with its seconds and memory."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "seconds": time.perf_counter() - began}


def worst_error(parts: dict[str, float], made: Timeline) -> float:
    """Return the largest relative error of any part that is there."""
    truth = {part: float(values.sum()) for part, values in made.truth.items()}
    return max(abs(parts[part] - value) / value for part, value in truth.items() if value)


def figures(*, events: int) -> dict[str, Any]:
    """Return the figures of this module."""
    made = large(events)
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as name:
        path = write_nsys(Path(name) / "r0.sqlite", made)
        megabytes = path.stat().st_size / 1e6
        found = analysed(path)
    return {
        "intervals_per_s": found["events"] / found["seconds"],
        "scale_events": found["events"],
        "scale_seconds": found["seconds"],
        "scale_peak_gb": found["peak_bytes"] / 1e9,
        "scale_file_mb": megabytes,
        "scale_worst_error": worst_error(found["parts"], made),
    }
