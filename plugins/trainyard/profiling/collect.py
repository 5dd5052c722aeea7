"""The profiles of a plan: which of its runs were watched, and what their traces say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.contract import Profiler, RunResult, Status
from trainyard.backends import folder
from trainyard.errors import ProfileError
from trainyard.profiling.pairs import RATE, STEP_TIME, Overhead, overhead_of, work_of
from trainyard.profiling.traces import trace_files

if TYPE_CHECKING:
    from trainyard.paths import RunPaths
    from trainyard.profile.controls import Controls
    from trainyard.profile.counters import Counters
    from trainyard.profile.result import ProfileAnalysis
    from trainyard.store import RunRow, Store
    from trainyard.study import StudyFile

TIMELINES = (Profiler.TORCH, Profiler.NSYS)
"""Profilers that say when something ran; Nsight Compute says how well."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Member:
    """One run of a plan with its files and its row."""

    paths: RunPaths
    """Files of its newest attempt."""
    row: RunRow
    """Its row, completed or not."""

    @property
    def result(self) -> RunResult | None:
        """Its record, if it completed."""
        return self.row.result if self.row.status == Status.COMPLETED else None

    def metric(self, name: str) -> float | None:
        """Return what it measured, None when it did not."""
        return self.result.metric(name) if self.result else None


@dataclass(kw_only=True, slots=True, frozen=True)
class Profiled:
    """The profiles of one plan."""

    member: Member
    """The run whose profile the verdict rests on: the first that completed."""
    analysis: ProfileAnalysis
    """What its trace says."""
    traces: tuple[Member, ...]
    """Every run with a timeline, that one first."""
    counted: Member | None
    """The run under Nsight Compute."""
    overhead: Overhead
    """What profiling cost."""
    rates: tuple[float, ...]
    """Images per second of the runs without profiler."""
    other_bounds: tuple[str, ...]
    """Classes that the repeats' profiles give."""


def has_profiles(study: StudyFile) -> bool:
    """Say whether any run of *study* is planned under a profiler."""
    return any(run.spec.profiler is not Profiler.NONE for run in study.plan.runs)


def profile_of(study: StudyFile, store: Store) -> Profiled:
    """Return what the profiled runs of *study* say, with the same work unwatched beside them.

    Raises ``ProfileError`` when no profiled run completed, or one left no usable profile.
    """
    members = members_of(study, store)
    traced = _completed([m for m in members if m.row.spec.profiler in TIMELINES])
    counted = [m for m in members if m.row.spec.profiler is Profiler.NCU and m.result]
    if any(m.row.spec.profiler is Profiler.NCU for m in members) and not counted:
        _completed([m for m in members if m.row.spec.profiler is Profiler.NCU])
    work = work_of(traced[0].row.spec)
    plain = [m for m in members if _is_plain(m, work)]
    controls = _controls(plain)
    counters = _counters(counted[0]) if counted else None
    first = _analysed(traced[0], controls, counters)
    steps, others = [mean_step_s(first)], []
    for member in traced[1:]:
        # One at a time: a trace can take gigabytes.
        again = _analysed(member, controls, counters)
        steps.append(mean_step_s(again))
        others.append(again.verdict.bound.value)
    return Profiled(
        member=traced[0],
        analysis=first,
        traces=tuple(traced),
        counted=counted[0] if counted else None,
        overhead=overhead_of(_measured(plain, STEP_TIME), _measured(traced, STEP_TIME), steps),
        rates=tuple(_measured(plain, RATE)),
        other_bounds=tuple(others),
    )


def members_of(study: StudyFile, store: Store) -> list[Member]:
    """Return the runs of *study* that have a row, in order."""
    found = []
    for index in range(len(study.plan.runs)):
        run = study.run(index)
        paths = run.paths.attempt(folder.newest_attempt(run.paths))
        row = store.run(paths.run_id)
        if row is not None:
            found.append(Member(paths=paths, row=row))
    return found


def mean_step_s(analysis: ProfileAnalysis) -> float:
    """Return seconds per captured step, of the slowest rank."""
    return max(item.step_ms.value for item in analysis.ranks) / 1000


def _completed(watched: list[Member]) -> list[Member]:
    good = [member for member in watched if member.result is not None]
    if good:
        return good
    why = "; ".join(f"{m.paths.run_id}: {m.row.reason}" for m in watched) or "none was recorded"
    raise ProfileError(
        f"No profiled run completed ({why}). Where the profiler is missing or not permitted, "
        "install it there or choose profiler = 'torch', which is part of PyTorch"
    )


def _is_plain(member: Member, work: str) -> bool:
    spec = member.row.spec
    unwatched = spec.profiler is Profiler.NONE and member.result is not None
    # The seed is no part of config_id: repeats of one configuration do the same work.
    return unwatched and work_of(spec) == work


def _measured(members: list[Member], name: str) -> list[float]:
    values = [member.metric(name) for member in members]
    return [value for value in values if value is not None and value > 0]


def _controls(plain: list[Member]) -> Controls | None:
    from trainyard.profile.controls import controls_of

    for member in plain:
        if member.result is not None:
            found = controls_of({metric.name: metric.value for metric in member.result.metrics})
            if found is not None:
                return found
    return None


def _counters(member: Member) -> dict[str, Counters]:
    from trainyard.profile.readers.ncu import read_ncu

    return read_ncu(trace_files(member.paths, member.row.spec)[0])


def _analysed(
    member: Member, controls: Controls | None, counters: dict[str, Counters] | None
) -> ProfileAnalysis:
    from trainyard.profile.analysis import analyse
    from trainyard.profile.readers import read_trace

    spec = member.row.spec
    trace = read_trace(trace_files(member.paths, spec))
    return analyse(trace, controls=controls, counters=counters, spec=spec)
