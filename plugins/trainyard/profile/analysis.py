"""From a trace to its analysis: every rank taken apart, ranks compared, a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainyard.errors import ProfileError
from trainyard.profile import intervals as iv
from trainyard.profile.device import NVTX, device_times, pageable_share
from trainyard.profile.kernels import kernel_table
from trainyard.profile.model import Note
from trainyard.profile.operators import operator_table
from trainyard.profile.phases import phase_times
from trainyard.profile.result import PART_COLUMNS, Mode, ProfileAnalysis, RankAnalysis
from trainyard.profile.shares import mean_over_steps, ratio_over_steps
from trainyard.profile.steps import windows_of
from trainyard.profile.stragglers import stragglers_of
from trainyard.profile.verdict import verdict_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from trainer.contract import RunSpec
    from trainyard.analysis.statistics import Estimate
    from trainyard.profile.controls import Controls
    from trainyard.profile.counters import Counters
    from trainyard.profile.model import RankTrace, Trace
    from trainyard.profile.steps import Windows

NS_PER_MS = 1e6
RESIDUAL_MS, RESIDUAL_SHARE = 0.5, 0.02
"""A residual above the larger of the two is printed."""
OVERHEAD = 0.05
"""Share of the steps in which the profiler may be at work without a note."""


def analyse(
    trace: Trace,
    *,
    counters: dict[str, Counters] | None = None,
    controls: Controls | None = None,
    spec: RunSpec | None = None,
) -> ProfileAnalysis:
    """Return what *trace* says; *counters* are Nsight Compute's, *controls* of an unprofiled run.

    With *spec*, suggestions name values to try. Raises ``ProfileError`` when there is nothing to
    analyse: an empty analysis is an error, never a result.
    """
    mode = _mode(trace)
    windows = [windows_of(rank) for rank in trace.ranks]
    take_apart = _of_device if mode is Mode.DEVICE else _of_phases
    ranks = tuple(
        take_apart(rank, window, counters)
        for rank, window in zip(trace.ranks, windows, strict=True)
    )
    exposed_name = "exposed_comm" if mode is Mode.DEVICE else "collective"
    stragglers, why = stragglers_of(trace, windows, [item.spans[exposed_name] for item in ranks])
    notes = _notes(trace, ranks, mode, counters)
    return ProfileAnalysis(
        trace=trace,
        mode=mode,
        ranks=ranks,
        stragglers=stragglers,
        no_stragglers=why,
        verdict=verdict_of(ranks, stragglers, controls, spec),
        notes=notes,
        counters=bool(counters),
    )


def _mode(trace: Trace) -> Mode:
    with_device = [rank for rank in trace.ranks if rank.on_device]
    if not with_device:
        return Mode.HOST
    if len(with_device) < len(trace.ranks):
        without = next(rank for rank in trace.ranks if not rank.on_device)
        raise ProfileError(
            f"{without.source}: rank {without.rank} has no device work while rank "
            f"{with_device[0].rank} has: its trace is empty or its GPU was not profiled. Profile "
            "every rank alike, or leave this rank out"
        )
    return Mode.DEVICE


def _of_device(
    rank: RankTrace, windows: Windows, counters: dict[str, Counters] | None
) -> RankAnalysis:
    times = device_times(rank, windows)
    frame, spans = times.frame, times.spans
    if not float(frame["busy"].sum()) > 0:
        raise ProfileError(
            f"{rank.source}: rank {rank.rank} has device work, but none within its "
            f"{len(windows.start)} steps: the profiled window and the step ranges do not overlap"
        )
    # Reconciled against |W| - |K|, with parts that overlap nowhere.
    parts = [name for name in PART_COLUMNS[Mode.DEVICE] if name not in {"compute", "unexplained"}]
    residual = frame["window"] - frame["compute"] - frame[parts].sum(axis=1)
    return RankAnalysis(
        rank=rank.rank,
        mode=Mode.DEVICE,
        windows=windows,
        frame=frame,
        fractions=_device_fractions(frame),
        pageable=pageable_share(rank, windows),
        data_basis=times.data_basis,
        kernels=kernel_table(rank, windows, counters),
        operators=(),
        spans={
            "compute": spans.compute,
            "exposed_comm": spans.exposed_comm,
            "exposed_h2d": spans.exposed_h2d,
            "other_copies": spans.other_copies,
            "data": spans.data,
            "sync": spans.sync,
            "host": spans.host,
            "communication": spans.collective,
        },
        **_common(rank, windows, frame, residual),
    )


def _device_fractions(frame: pd.DataFrame) -> dict[str, Estimate | None]:
    share = _sharing(frame)
    gaps = ("exposed_comm", "exposed_h2d", "data_gap", "host_gap", "sync_gap")
    return {
        "gpu_busy": share("busy"),
        "overlap": share("overlapped", "communication"),
        **{name: share(name) for name in (*gaps, "idle", "unexplained")},
    }


def _of_phases(
    rank: RankTrace, windows: Windows, counters: dict[str, Counters] | None
) -> RankAnalysis:
    del counters  # they belong to kernels
    times = phase_times(rank, windows)
    frame = times.frame
    if not times.named:
        raise ProfileError(
            f"{rank.source}: rank {rank.rank} has steps but no phase in them: name data, forward, "
            "backward, optimizer and collective with NVTX ranges or record_function"
        )
    share = _sharing(frame.assign(hidden=frame["collective_total"] - frame["collective"]))
    fractions = {
        "data_wait": share("data"),
        "exposed_comm": share("collective"),
        "overlap": share("hidden", "collective_total"),
        **{name: share(name) for name in ("forward", "backward")},
        "optimizer": share("optimizer"),
        "host_time": share("other"),
    }
    residual = frame["window"] - frame[list(PART_COLUMNS[Mode.HOST])].sum(axis=1)
    return RankAnalysis(
        rank=rank.rank,
        mode=Mode.HOST,
        windows=windows,
        frame=frame,
        fractions=fractions,
        pageable=None,
        data_basis=NVTX if "data" in times.named else "",
        kernels=None,
        operators=operator_table(rank, windows),
        spans=times.spans,
        **_common(rank, windows, frame, residual),
    )


def _sharing(frame: pd.DataFrame) -> Callable[..., Estimate | None]:
    """Return the function that takes a column's share of the window, or of another column."""

    def share(part: str, of: str = "window") -> Estimate | None:
        return ratio_over_steps(frame[part].to_numpy(), frame[of].to_numpy())

    return share


def _common(
    rank: RankTrace, windows: Windows, frame: pd.DataFrame, residual: pd.Series
) -> dict[str, Any]:
    step = mean_over_steps(frame["window"].to_numpy(), 1 / NS_PER_MS)
    if step is None:
        raise ProfileError(f"{rank.source}: rank {rank.rank} has steps without a length")
    spent = iv.union(rank.overhead.start, rank.overhead.end)
    within = iv.lengths(spent, windows.start, windows.end).sum()
    return {
        "step_ms": step,
        "residual_ms": float(residual.abs().mean()) / NS_PER_MS,
        "residual_limit_ms": max(RESIDUAL_MS, RESIDUAL_SHARE * step.value),
        "overhead": float(within) / float(windows.length.sum()),
    }


def _notes(
    trace: Trace,
    ranks: tuple[RankAnalysis, ...],
    mode: Mode,
    counters: dict[str, Counters] | None,
) -> tuple[Note, ...]:
    notes = list(trace.notes)
    for rank in trace.ranks:
        prefix = f"Rank {rank.rank}: " if len(trace.ranks) > 1 else ""
        notes += [Note(text=prefix + note.text, serious=note.serious) for note in rank.notes]
    if not all(item.windows.named for item in ranks):
        notes.append(Note(text=_NO_STEPS))
    if mode is Mode.DEVICE and not all(item.data_basis for item in ranks):
        notes.append(Note(text=_NO_DATA_RANGES))
    if mode is Mode.DEVICE and not counters:
        notes.append(Note(text=_NO_COUNTERS))
    worst = max(item.overhead for item in ranks)
    if worst > OVERHEAD:
        text = f"The profiler itself was at work in {100 * worst:.0f} % of the steps of one rank: "
        notes.append(Note(text=f"{text}its slowdown is in these numbers", serious=True))
    return tuple(notes)


_NO_STEPS = (
    "The trace names no steps: the whole span of device work is one window, and no fraction has an "
    "interval. Name steps with NVTX (step 0, step 1 …)"
)
_NO_DATA_RANGES = (
    "Waiting for data cannot be told: no data range (NVTX, record_function) and no OS-runtime wait "
    "is in the trace; such idle time counts as late launches"
)
_NO_COUNTERS = (
    "Counters unavailable: no Nsight Compute file was given. Kernel limits are from durations, "
    "tensor-core use from names, FLOP and bytes from operator shapes where they were recorded"
)
