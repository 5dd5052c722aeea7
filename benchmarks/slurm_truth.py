"""What really happened to the jobs, and what a watcher's word is worth beside it."""

from __future__ import annotations

import dataclasses
import subprocess
import time
from typing import Any

from benchmarks.slurm_jobs import COMMANDS, Workplace

SELF_ENDED = {"success", "failure"}


@dataclasses.dataclass(kw_only=True, slots=True, frozen=True)
class End:
    """How and when a job really ended."""

    state: str
    at: float


def real_ends(place: Workplace) -> dict[int, End]:
    """Return the end of every job, once accounting has all."""
    ids = ",".join(str(job.job_id) for job in place.jobs)
    deadline = time.monotonic() + 60
    ends: dict[int, End] = {}
    while len(ends) < len(place.jobs):
        if time.monotonic() > deadline:
            raise RuntimeError("accounting does not know the end of every job")
        cells = ["env", "SLURM_TIME_FORMAT=%s", "sacct", "-XnP", "-o", "JobIDRaw,State,End", "-j"]
        text = subprocess.run(
            [*cells, ids],
            env=place.environment("truth"),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        rows = [line.split("|") for line in text.splitlines()]
        ends = {
            int(job): End(state=state.split()[0], at=float(end))
            for job, state, end in rows
            if end.isdigit() and state not in {"RUNNING", "PENDING", "COMPLETING"}
        }
    for job in place.jobs:
        if job.paths.exit_code.exists():
            at = job.paths.exit_code.stat().st_mtime
            ends[job.job_id] = dataclasses.replace(ends[job.job_id], at=at)
    return ends


def plan_mistakes(place: Workplace, ends: dict[int, End]) -> list[str]:
    """Return the jobs that Slurm itself ended otherwise than planned."""
    return [
        f"{job.paths.run_id}: {ends[job.job_id].state}"
        for job in place.jobs
        if ends[job.job_id].state != job.kind.state
    ]


def watcher_figures(
    place: Workplace, ends: dict[int, End], found: dict[int, tuple[float, str]], who: str
) -> dict[str, Any]:
    """Return lag, verdicts and command rate of one watcher."""
    lags: dict[bool, list[float]] = {True: [], False: []}
    wrong = []
    for job in place.jobs:
        at, said = found[job.job_id]
        lags[job.kind.name in SELF_ENDED].append(max(0.0, at - ends[job.job_id].at))
        if said != job.kind.outcome.value:
            wrong.append(f"{job.kind.name}: {said}")
    calls = place.counted(who)
    last = max(at for at, _ in found.values())
    began = min(watch_began(place), last)
    return {
        **spread(lags[True] + lags[False], "detect"),
        "detect_p95_ended_by_itself_s": spread(lags[True], "x")["x_p95_s"],
        "detect_p95_ended_by_slurm_s": spread(lags[False], "x")["x_p95_s"],
        "wrong_verdicts": len(wrong),
        "wrong": sorted(set(wrong)),
        "commands": {name: calls[name] for name in COMMANDS if name in calls},
        "commands_per_s": round(sum(calls.values()) / (last - began), 4),
        "seconds": round(last - began, 1),
    }


def watch_began(place: Workplace) -> float:
    """Return when the watch began: the plan for submitit is written then."""
    return (place.folder / "plan.json").stat().st_mtime


def spread(values: list[float], name: str) -> dict[str, float]:
    """Return median, 95th percentile (nearest rank) and maximum, in seconds."""
    ordered = sorted(values)
    rank = max(0, -(-95 * len(ordered) // 100) - 1)
    return {
        f"{name}_p50_s": round(ordered[len(ordered) // 2], 3),
        f"{name}_p95_s": round(ordered[rank], 3),
        f"{name}_max_s": round(ordered[-1], 3),
    }
