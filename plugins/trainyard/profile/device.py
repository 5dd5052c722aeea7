"""Where the steps of one device went: the formulas of docs/profiles.md, in nanoseconds per step.

K compute kernels, C collective kernels, H host-to-device copies, D other copies and sets, G all of
them; each is the union over all streams of the device, never a sum of durations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainyard.profile import intervals as iv
from trainyard.profile.model import Copy, Kind
from trainyard.profile.steps import phase_of

if TYPE_CHECKING:
    import pandas as pd

    from trainyard.profile.intervals import Spans
    from trainyard.profile.model import Array, Events, RankTrace
    from trainyard.profile.steps import Windows

NVTX, OSRT, UNKNOWN = "data ranges", "OS-runtime waits of the main thread", ""
_WAITS = re.compile(
    r"p?poll|p?select|epoll_p?wait|pthread_(cond_(timed|clock)?wait|join)|sem_(timed|clock)?wait"
    r"|futex|read|recv(from|msg)?|accept|u?sleep|(clock_)?nanosleep|sig(timed)?wait|wait(pid)?"
    r"|mq_receive|msgrcv"
)
"""Calls of the OS runtime that wait for somebody else."""
_SMALL_TABLE = 1 << 22


@dataclass(kw_only=True, slots=True, frozen=True, eq=False)
class DeviceSpans:
    """The unions behind the numbers, for pictures and for waiting times."""

    compute: Spans
    """K."""
    collective: Spans
    """C."""
    exposed_comm: Spans
    """C without any other device work."""
    exposed_h2d: Spans
    """H without K and C."""
    other_copies: Spans
    """What else ran without a compute kernel."""
    data: Spans
    """Idle while the host waited for data."""
    sync: Spans
    """Idle in a synchronising call, outside data."""
    host: Spans
    """Idle because the launch came late, outside data and sync."""


@dataclass(kw_only=True, slots=True, frozen=True, eq=False)
class DeviceTimes:
    """Nanoseconds per step and part of one rank."""

    frame: pd.DataFrame
    """One row per window; columns are documented in docs/profiles.md."""
    spans: DeviceSpans
    """The unions behind the numbers."""
    data_basis: str
    """What the data gap was taken from; empty when nothing could tell."""


def device_times(rank: RankTrace, windows: Windows) -> DeviceTimes:
    """Return the parts of every window of *rank*, whose device did some work."""
    import pandas as pd

    waits, basis = _data_waits(rank, windows)
    parts = _parts(rank, waits, int(windows.start[0]), int(windows.end[-1]))
    frame = pd.DataFrame(
        {
            "window": windows.length.astype(np.float64),
            **{
                name: iv.lengths(span, windows.start, windows.end).astype(np.float64)
                for name, span in parts.items()
            },
        }
    )
    unknown = ([] if basis else ["data_gap"]) + (
        [] if len(rank.calls) else ["sync_gap", "host_gap"]
    )
    frame[unknown] = np.nan
    frame["unexplained"] = frame["idle"] - frame["data"] - frame["sync"] - frame["host"]
    spans = DeviceSpans(
        compute=parts["compute"],
        collective=parts["communication"],
        exposed_comm=parts["exposed_comm"],
        exposed_h2d=parts["exposed_h2d"],
        other_copies=parts["other_copies"],
        data=parts["data"],
        sync=parts["sync"],
        host=parts["host"],
    )
    return DeviceTimes(frame=frame, spans=spans, data_basis=basis)


def _parts(rank: RankTrace, waits: Spans, low: int, high: int) -> dict[str, Spans]:
    """Return every part by its column; *waits*: when the host waited for data."""
    work = rank.device
    sets = {name: _union(work, mask, low, high) for name, mask in _masks(work).items()}
    compute, collective, h2d, others = (sets[n] for n in ("compute", "collective", "h2d", "others"))
    copies = iv.join(h2d, others)
    busy = iv.join(compute, collective, copies)
    idle = iv.complement(busy, low, high)
    data = iv.intersect(idle, waits)
    sync = iv.intersect(idle, _synchronising(rank, low, high))
    host = iv.intersect(idle, _late_launches(rank, low, high))
    exposed_h2d = iv.subtract(h2d, iv.join(compute, collective))
    return {
        "busy": busy,
        "compute": compute,
        "communication": collective,
        "overlapped": iv.intersect(collective, compute),
        "exposed_comm": iv.subtract(collective, iv.join(compute, copies)),
        "h2d": h2d,
        "exposed_h2d": exposed_h2d,
        "other_copies": iv.subtract(iv.subtract(copies, compute), exposed_h2d),
        "idle": idle,
        "data_gap": data,
        "sync_gap": sync,
        "host_gap": host,
        "data": data,
        "sync": iv.subtract(sync, data),
        "host": iv.subtract(host, iv.join(data, sync)),
    }


def _masks(work: Events) -> dict[str, Array]:
    to_device = (work.kind == Kind.COPY) & (work.copy == Copy.HTOD)
    return {
        "compute": work.kind == Kind.COMPUTE,
        "collective": work.kind == Kind.COLLECTIVE,
        "h2d": to_device,
        "others": (work.kind >= Kind.COPY) & ~to_device,
    }


def _union(work: Events, mask: Array, low: int, high: int) -> Spans:
    return iv.clip(iv.union(work.start[mask], work.end[mask]), low, high)


def pageable_share(rank: RankTrace, windows: Windows) -> float | None:
    """Return the share of copied host-to-device bytes that came from pageable memory.

    None without such copies, or when the trace does not say what kind of memory it was.
    """
    work = rank.device
    inside = (work.start >= windows.start[0]) & (work.start < windows.end[-1])
    known = inside & (work.kind == Kind.COPY) & (work.copy == Copy.HTOD) & (work.pageable >= 0)
    total = int(work.bytes[known].sum())
    if total <= 0:
        return None
    return float(work.bytes[known & (work.pageable == 1)].sum()) / total


def _data_waits(rank: RankTrace, windows: Windows) -> tuple[Spans, str]:
    """Return when the stepping thread waited for data, and how that is known."""
    named = phase_ranges(rank, "data", windows.thread)
    if len(named):
        return iv.union(named.start, named.end), NVTX
    system = rank.system
    if not len(system):
        return iv.empty(), UNKNOWN
    thread = windows.thread if windows.thread >= 0 else _busiest(rank.calls)
    waiting = np.fromiter(
        (_WAITS.fullmatch(name) is not None for name in rank.names), bool, len(rank.names)
    )
    mine = system.where((system.thread == thread) & waiting[system.name])
    if not len(mine):
        return iv.empty(), UNKNOWN
    # A synchronising CUDA call waits in the OS too: that is its gap, not the data's.
    calls = rank.calls.where(rank.calls.thread == thread)
    waits = iv.subtract(iv.union(mine.start, mine.end), iv.union(calls.start, calls.end))
    return waits, OSRT


def _busiest(calls: Events) -> int:
    if not len(calls):
        return -1
    threads, counts = np.unique(calls.thread, return_counts=True)
    return int(threads[counts.argmax()])


def phase_ranges(rank: RankTrace, phase: str, thread: int = -1) -> Events:
    """Return the ranges of *phase*, on *thread* alone when it is known and has any."""
    used = np.unique(rank.ranges.name)
    chosen = [int(number) for number in used if phase_of(rank.names[number]) == phase]
    found = rank.ranges.where(np.isin(rank.ranges.name, chosen))
    mine = found.thread == thread
    return found.where(mine) if thread >= 0 and bool(mine.any()) else found


def is_synchronising(name: str) -> bool:
    """Whether a call of this name waits for the device: cuda*Synchronize and the driver's own."""
    return name.startswith(("cuda", "cu", "hip")) and "Synchronize" in name


def _synchronising(rank: RankTrace, low: int, high: int) -> Spans:
    """Return when any thread was in a synchronising call."""
    calls = rank.calls
    if not len(calls):
        return iv.empty()
    wait = np.fromiter((is_synchronising(name) for name in rank.names), bool, len(rank.names))
    mask = wait[calls.name]
    return iv.clip(iv.union(calls.start[mask], calls.end[mask]), low, high)


def _late_launches(rank: RankTrace, low: int, high: int) -> Spans:
    """Return the gaps between device work whose next work was launched after the gap began."""
    if not len(rank.calls):
        return iv.empty()
    work = rank.device
    busy = iv.union(work.start, work.end)
    begin = np.concatenate([np.array([min(low, int(busy.start[0]))]), busy.end[:-1]])
    end = busy.start
    inside = np.flatnonzero((end > low) & (begin < high) & (end > begin))
    begin, end = begin[inside], end[inside]
    first = np.searchsorted(work.start, end, side="left")
    launched = launch_times(rank.calls, work.correlation[first])
    late = launched >= begin
    return iv.clip(iv.Spans(begin[late], end[late]), low, high)


def launch_times(calls: Events, correlation: Array) -> Array:
    """Return when the call with each of *correlation* began; -1 where none is known."""
    unknown = np.int64(-1)
    if not len(calls) or not correlation.size:
        return np.full(correlation.size, unknown)
    top = int(calls.correlation.max())
    if 0 <= top < max(_SMALL_TABLE, 8 * len(calls)):
        table = np.full(top + 2, unknown)
        known = calls.correlation >= 0
        # Reversed, so that the first of two calls with one id wins.
        table[calls.correlation[known][::-1]] = calls.start[known][::-1]
        inside = (correlation >= 0) & (correlation <= top)
        found: Array = table[np.where(inside, correlation, top + 1)]
        return found
    order = np.argsort(calls.correlation, kind="stable")
    ids = calls.correlation[order]
    place = np.minimum(np.searchsorted(ids, correlation, side="left"), ids.size - 1)
    hit = (ids[place] == correlation) & (correlation >= 0)
    return np.where(hit, calls.start[order[place]], unknown)
