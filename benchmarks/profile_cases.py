"""Every generated case in every form, and the worked case: how far from the truth they come out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.profile_generator import CASES, Timeline, timeline
from benchmarks.profile_nsys import SCHEMAS, write_nsys
from benchmarks.profile_writers import write_torch
from trainyard.profile.analysis import analyse
from trainyard.profile.clocks import align
from trainyard.profile.model import Format, Kind, RankTrace, events
from trainyard.profile.readers import read_trace

STEPS = 12
MS = 1_000_000


def error_of(path: Path, made: Timeline) -> float:
    """Return the largest relative error of any part; one that is not there must be 0."""
    frame = analyse(read_trace([path])).ranks[0].frame
    worst = 0.0
    for part, values in made.truth.items():
        got, wanted = float(frame[part].sum()), float(np.sum(values))
        worst = max(worst, abs(got - wanted) / wanted if wanted else abs(got))
    return worst


def worked_exact() -> bool:
    """Return whether the worked case comes out exactly."""
    work = events(
        start=np.array([1.0, 2.5, 3, 4.5, 8]) * MS,
        end=np.array([2.0, 3.5, 4, 5.5, 9]) * MS,
        kind=[Kind.COMPUTE, Kind.COLLECTIVE, Kind.COMPUTE, Kind.COLLECTIVE, Kind.COMPUTE],
        name=[0] * 5, stream=[0] * 5, device=[0] * 5, correlation=[-1] * 5, bytes=[-1] * 5,
        copy=[0] * 5, pageable=[-1] * 5,
    )  # fmt: skip
    rank = RankTrace(rank=0, source="worked", format=Format.NSYS, names=("k",), device=work)
    [found] = analyse(align([rank])).ranks
    step = found.frame.iloc[0]
    overlap = found.fractions["overlap"]
    return (
        step["overlapped"] == MS // 2
        and step["idle"] == 3.5 * MS
        and step["window"] == 8 * MS
        and overlap is not None
        and overlap.value == 0.25  # noqa: PLR2004 - the published result
    )


def figures() -> dict[str, Any]:
    """Return the figures of this module."""
    scale = 1 + 0.1 * np.random.default_rng(7).random(STEPS)
    worst = 0.0
    count = 0
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as name:
        folder = Path(name)
        for segments in CASES.values():
            for nccl in ("old", "new"):
                made = timeline(segments, steps=STEPS, scale=scale, nccl=nccl)
                paths = [
                    write_nsys(folder / f"case-{place}.sqlite", made, schema)
                    for place, schema in enumerate(SCHEMAS.values())
                ]
                paths.append(write_torch(folder / "case.json.gz", made))
                worst = max(worst, *(error_of(path, made) for path in paths))
                count += len(paths)
    return {"cases": count, "cases_worst_error": worst, "worked_case_exact": bool(worked_exact())}
