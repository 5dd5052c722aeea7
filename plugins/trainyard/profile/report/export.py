"""A trace in the form that Perfetto and chrome://tracing read, gzipped, written in bounded memory.

One process per rank; its threads are the device's streams, the host's threads, and one lane that
says why the device was idle.
"""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from trainyard.profile.report.parts import LABELS, lanes_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trainyard.profile.model import Array, Events, RankTrace
    from trainyard.profile.result import ProfileAnalysis, RankAnalysis

MOST_EVENTS = 2_000_000
"""Events beside a report: more make a file that no viewer opens with pleasure."""
_CHUNK = 1 << 16
_CAUSES = "idle because"


def exported_steps(analysis: ProfileAnalysis) -> int:
    """Return how many steps, from the first, the trace beside a report holds."""
    steps = len(analysis.ranks[0].windows.start)
    per_step = max(1, analysis.trace.total // steps)
    return max(1, min(steps, MOST_EVENTS // per_step))


def write_perfetto(analysis: ProfileAnalysis, path: Path, *, steps: int | None = None) -> int:
    """Write the profiled steps (the first *steps* of them) to *path*; return the events written."""
    first = analysis.ranks[0].windows
    count = len(first.start) if steps is None else max(1, min(steps, len(first.start)))
    total = 0
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=3) as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        for trace, item in zip(analysis.trace.ranks, analysis.ranks, strict=True):
            last = min(count, len(item.windows.end)) - 1
            bounds = (int(item.windows.start[0]), int(item.windows.end[last]))
            origin = int(first.start[0]) if analysis.trace.aligned else bounds[0]
            for line in _rank(trace, item, bounds, origin):
                file.write(line if not total else f",\n{line}")
                total += 1
        file.write("\n]}\n")
    return total


def _rank(
    trace: RankTrace, item: RankAnalysis, bounds: tuple[int, int], origin: int
) -> Iterator[str]:
    yield _named("process_name", trace.rank, 0, f"rank {trace.rank} {trace.gpu}".strip())
    names = [json.dumps(name) for name in trace.names]
    streams = {int(s): 1000 + place for place, s in enumerate(np.unique(trace.device.stream))}
    for stream, number in streams.items():
        yield _named("thread_name", trace.rank, number, f"stream {stream}")
    lanes = trace.device.stream
    yield from _events(trace.device, names, trace.rank, lanes, streams, bounds, origin)
    for table, label in ((trace.ranges, "ranges"), (trace.calls, "calls")):
        threads = {
            int(t): (1 if label == "ranges" else 100) + place
            for place, t in enumerate(np.unique(table.thread))
        }
        for thread, number in threads.items():
            yield _named(
                "thread_name", trace.rank, number, f"{label} of thread {thread & 0xFFFFFF}"
            )
        yield from _events(table, names, trace.rank, table.thread, threads, bounds, origin)
    yield _named("thread_name", trace.rank, 999, _CAUSES)
    for part in lanes_of(item).get(_CAUSES, ()):
        spans = item.spans[part]
        inside = (spans.end > bounds[0]) & (spans.start < bounds[1])
        label = json.dumps(LABELS[part])
        for a, b in zip(spans.start[inside].tolist(), spans.end[inside].tolist(), strict=True):
            yield _event(label, trace.rank, 999, a - origin, b - a)


def _events(
    table: Events,
    names: list[str],
    rank: int,
    lane: Array,
    numbers: dict[int, int],
    bounds: tuple[int, int],
    origin: int,
) -> Iterator[str]:
    inside = np.flatnonzero((table.end > bounds[0]) & (table.start < bounds[1]))
    for low in range(0, inside.size, _CHUNK):
        chosen = inside[low : low + _CHUNK]
        columns: tuple[Any, ...] = (
            table.start[chosen].tolist(),
            table.end[chosen].tolist(),
            table.name[chosen].tolist(),
            lane[chosen].tolist(),
        )
        for start, end, name, place in zip(*columns, strict=True):
            yield _event(names[name], rank, numbers[place], start - origin, end - start)


def _event(quoted: str, rank: int, thread: int, start: int, length: int) -> str:
    return (
        f'{{"ph":"X","pid":{rank},"tid":{thread},"name":{quoted},'
        f'"ts":{start / 1000:.3f},"dur":{length / 1000:.3f}}}'
    )


def _named(kind: str, rank: int, thread: int, name: str) -> str:
    args = {"name": name}
    return json.dumps({"ph": "M", "name": kind, "pid": rank, "tid": thread, "args": args})
