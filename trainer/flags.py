"""Validity flags: why a run's numbers must not be compared. Pure functions of what was measured.

Thresholds and their sources:

- oversubscribed: usable cores < ranks on the node x threads per rank (CPU runs).
- foreign load: what other processes took beyond the cores the ranks leave idle, as a mean over the
  train windows, exceeds 10 % of the cores the ranks need. Load that fits on idle cores does not
  flag: it slows a run through shared caches at most, and the window spread shows that.
- clock drift: the clock moved by more than 3 % between windows (where it can be read).
- throttled: a GPU reported slowing for heat or power at any window end.
- unstable: coefficient of variation of the time per image over the windows above 5 % on a CPU,
  2 % on a GPU.
- short: under 3 windows, windows under 20 steps, warm-up under 5 steps on a CPU or 30 on a GPU,
  or on a GPU both under 200 timed steps and under 30 timed seconds.
- profiled: the run was made to be looked at; ``nsys`` and ``ncu`` slow all of it a little.
- resumed: the run went on from a checkpoint, so its windows come from two processes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.clock import Reading
from trainer.contract import Flag, Machine, Profiler, RunSpec, Window, WindowKind

FOREIGN_SHARE = 0.10
CLOCK_DRIFT = 0.03
UNSTABLE = {"cpu": 0.05, "cuda": 0.02}
LEAST_WINDOWS = 3
LEAST_WINDOW_STEPS = 20
LEAST_WARMUP = {"cpu": 5, "cuda": 30}
LEAST_GPU_STEPS = 200
LEAST_GPU_SECONDS = 30.0

Raised = tuple[Flag, str]


@dataclass(kw_only=True, slots=True, frozen=True)
class Evidence:
    """What the flags are judged from."""

    spec: RunSpec
    device: str
    """cpu or cuda."""
    machines: tuple[Machine, ...]
    windows: tuple[Window, ...]
    """All windows, controls included."""
    readings: tuple[Reading, ...]
    """Train readings of this process."""
    resumed_at: int | None = None


def raised(evidence: Evidence) -> list[Raised]:
    """Return every flag that *evidence* raises, with the measured value behind it."""
    found = [
        _oversubscribed(evidence),
        _foreign_load(evidence),
        _clock_drift(evidence),
        _throttled(evidence),
        _unstable(evidence),
        _short(evidence),
        _resumed(evidence),
        _profiled(evidence),
    ]
    return [flag for flag in found if flag is not None]


def train_windows(windows: Sequence[Window]) -> list[Window]:
    """Return the windows of real steps."""
    return [window for window in windows if window.kind is WindowKind.TRAIN]


def window_cv(windows: Sequence[Window]) -> float | None:
    """Return the coefficient of variation of the time per image; None under two windows.

    Per image, not per step: a window with the smaller tail step of an epoch in it is shorter by
    right.
    """
    times = [window.seconds / window.images for window in train_windows(windows)]
    if len(times) < 2:  # noqa: PLR2004  a spread needs two values
        return None
    return statistics.stdev(times) / statistics.mean(times)


def _needed_cores(spec: RunSpec) -> int:
    return spec.ranks_per_node * spec.threads_per_rank


def _oversubscribed(evidence: Evidence) -> Raised | None:
    needed = _needed_cores(evidence.spec)
    cores = min((machine.cores_usable for machine in evidence.machines), default=needed)
    if evidence.device != "cpu" or cores >= needed:
        return None
    return Flag.OVERSUBSCRIBED, (
        f"{cores} usable cores for {evidence.spec.ranks_per_node} ranks x "
        f"{evidence.spec.threads_per_rank} threads = {needed}"
    )


def _foreign_load(evidence: Evidence) -> Raised | None:
    windows = train_windows(evidence.windows)
    if not windows or not evidence.machines:
        return None
    seconds = sum(window.seconds for window in windows)
    load = sum(window.foreign_load * window.seconds for window in windows) / seconds
    needed = _needed_cores(evidence.spec)
    idle = max(0, min(machine.cores_usable for machine in evidence.machines) - needed)
    if load - idle <= FOREIGN_SHARE * needed:
        return None
    return Flag.FOREIGN_LOAD, (
        f"{load:.2f} cores busy with other processes, {idle} left idle by the ranks; "
        f"limit {idle + FOREIGN_SHARE * needed:.2f}"
    )


def _clock_drift(evidence: Evidence) -> Raised | None:
    worst = 0.0
    for clocks in zip(*(reading.clock_mhz for reading in evidence.readings), strict=True):
        if min(clocks) > 0:
            worst = max(worst, (max(clocks) - min(clocks)) / max(clocks))
    if worst <= CLOCK_DRIFT:
        return None
    return Flag.CLOCK_DRIFT, f"clock moved by {worst:.1%} between windows; limit {CLOCK_DRIFT:.0%}"


def _throttled(evidence: Evidence) -> Raised | None:
    count = sum(reading.throttled for reading in evidence.readings)
    if not count:
        return None
    return Flag.THROTTLED, f"a GPU slowed for heat or power in {count} windows"


def _unstable(evidence: Evidence) -> Raised | None:
    spread, limit = window_cv(evidence.windows), UNSTABLE[evidence.device]
    if spread is None or spread <= limit:
        return None
    return Flag.UNSTABLE, f"windows vary by {spread:.1%} (CV); limit {limit:.0%}"


def _short(evidence: Evidence) -> Raised | None:
    windows = train_windows(evidence.windows)
    spec, device = evidence.spec, evidence.device
    steps = sum(window.steps for window in windows)
    seconds = sum(window.seconds for window in windows)
    reasons = []
    if len(windows) < LEAST_WINDOWS:
        reasons.append(f"{len(windows)} timed windows, {LEAST_WINDOWS} needed")
    if spec.window_steps < LEAST_WINDOW_STEPS:
        reasons.append(f"windows of {spec.window_steps} steps, {LEAST_WINDOW_STEPS} needed")
    if spec.warmup_steps < LEAST_WARMUP[device]:
        reasons.append(f"warm-up of {spec.warmup_steps} steps, {LEAST_WARMUP[device]} needed")
    if device == "cuda" and steps < LEAST_GPU_STEPS and seconds < LEAST_GPU_SECONDS:
        reasons.append(
            f"{steps} timed steps in {seconds:.1f} s; a GPU needs {LEAST_GPU_STEPS} steps "
            f"or {LEAST_GPU_SECONDS:.0f} s"
        )
    return (Flag.SHORT, "; ".join(reasons)) if reasons else None


def _resumed(evidence: Evidence) -> Raised | None:
    if evidence.resumed_at is None:
        return None
    return Flag.RESUMED, f"went on from a checkpoint at step {evidence.resumed_at}"


def _profiled(evidence: Evidence) -> Raised | None:
    profiler = evidence.spec.profiler
    if profiler is Profiler.NONE:
        return None
    return Flag.PROFILED, f"ran under {profiler.value}"
