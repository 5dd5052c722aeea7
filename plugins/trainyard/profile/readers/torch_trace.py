"""Chrome traces of torch.profiler, plain or gzipped, decoded into typed records by msgspec.

Only the fields that the analysis uses are decoded; the rest is skipped without becoming objects.
Times are microseconds with decimals relative to ``baseTimeNanoseconds``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from trainyard.errors import ProfileError
from trainyard.profile.model import (
    NONE,
    Clock,
    Copy,
    Events,
    Format,
    Kind,
    Note,
    RankTrace,
    events,
    no_events,
)
from trainyard.profile.names import collective_places
from trainyard.profile.readers.shapes import operator_costs
from trainyard.profile.readers.torch_file import (
    LARGEST_BYTES,
    Args,
    Event,
    File,
    Number,
    content_of,
    decoded,
)
from trainyard.profile.steps import BACKWARD_OPERATOR

_LATEST_US = 4e15
"""Times and lengths beyond this (the year 2096, in microseconds) are no times."""
_LARGEST = 1 << 62
_ABSOLUTE_US = 1e14
"""Above this (1973 in microseconds since 1970), times count from the epoch itself."""

DEVICE = {"kernel": Kind.COMPUTE, "gpu_memcpy": Kind.COPY, "gpu_memset": Kind.SET}
CALLS = ("cuda_runtime", "cuda_driver", "Runtime", "hip_runtime")
RANGES, OPERATORS, OVERHEAD = "user_annotation", "cpu_op", "overhead"
KNOWN = {*DEVICE, *CALLS, RANGES, OPERATORS, "gpu_user_annotation", "python_function"}
_DIRECTIONS = {
    "HtoD": Copy.HTOD,
    "DtoH": Copy.DTOH,
    "DtoD": Copy.DTOD,
    "PtoP": Copy.PTOP,
    "HtoH": Copy.HTOH,
}
_COPY = re.compile(r"Memcpy (\w+)(?: \((\w+) -> (\w+)\))?")
_COLLECTIVE_OPERATOR = re.compile(r"(gloo|nccl|mpi|ucc):\w+")


def read_torch(path: Path, rank: int | None = None, *, limit: int = LARGEST_BYTES) -> RankTrace:
    """Return the rank in the trace *path*; *rank* is used where the trace does not say its own.

    Raises ``ProfileError`` for a damaged or foreign file, for one that decompresses to more than
    *limit* bytes, and for one without any event that can be analysed.
    """
    file = decoded(path, content_of(path, limit))
    groups: dict[str, list[Event]] = defaultdict(list)
    dropped = 0
    for event in file.events:
        if (event.ph == "X" and event.cat in KNOWN) or event.cat == OVERHEAD:
            if 0 <= event.dur < _LATEST_US and abs(event.ts) < _LATEST_US:
                groups[event.cat].append(event)
            else:
                dropped += 1
    if not groups.keys() & KNOWN:
        raise ProfileError(
            f"{path} has {len(file.events)} events but none of torch.profiler's (kernel, cpu_op, "
            "user_annotation …): it is another program's trace, or its window was empty. Export it "
            "with torch.profiler's export_chrome_trace after at least one active step"
        )
    file.events.clear()
    return _rank(path, rank, file, groups, dropped)


class _Index:
    """Names as they appear, each once."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def of(self, group: list[Event]) -> list[int]:
        places = self.places
        return [places.setdefault(event.name, len(places)) for event in group]


def _rank(
    path: Path, rank: int | None, file: File, groups: dict[str, list[Event]], dropped: int
) -> RankTrace:
    index = _Index()
    device, notes = _one_device(_device(groups, index))
    calls = [event for name in CALLS for event in groups.pop(name, [])]
    operators = groups.pop(OPERATORS, [])
    ranges = groups.pop(RANGES, [])
    ranges += [e for e in operators if _is_phase(e.name)]
    costs = operator_costs(operators, groups["kernel"]) if groups["kernel"] else ()
    if dropped:
        notes.append(Note(text=f"{dropped} events without a valid time or length were dropped"))
    host = _host(ranges, index)
    made = RankTrace(
        rank=file.distributed.rank if file.distributed.rank is not None else (rank or 0),
        source=str(path),
        format=Format.TORCH,
        device=device,
        calls=_calls(calls, index),
        ranges=host,
        operators=_host(operators, index),
        overhead=_host(groups.pop(OVERHEAD, []), index),
        names=tuple(index.places),
        clock=Clock(epoch_ns=_epoch(file, device, host), host=file.host),
        notes=tuple(notes),
        gpu=_gpu(file, device),
        world=file.distributed.world_size,
        costs=costs,
    )
    if not (len(made.device) or len(made.ranges) or len(made.operators)):
        raise ProfileError(f"{path} has no event with a length: profile at least one active step")
    return made


def _is_phase(name: str) -> bool:
    """Whether an operator is a phase of its own: a backward node, a collective of a back end."""
    return name.startswith(BACKWARD_OPERATOR) or _COLLECTIVE_OPERATOR.match(name) is not None


def _epoch(file: File, device: Events, host: Events) -> int | None:
    if file.base_ns is not None:
        return file.base_ns
    first = min((int(t.start[0]) for t in (device, host) if len(t)), default=0)
    return 0 if first > _ABSOLUTE_US * 1000 else None


def _gpu(file: File, device: Events) -> str:
    if not len(device):
        return ""
    known = {item.id: item.name for item in file.devices}
    return known.get(int(device.device[0]), "")


def _times(group: list[Event]) -> dict[str, Any]:
    count = len(group)
    start = np.fromiter((event.ts for event in group), np.float64, count)
    length = np.fromiter((event.dur for event in group), np.float64, count)
    begin = np.rint(start * 1000).astype(np.int64)
    return {"start": begin, "end": begin + np.rint(length * 1000).astype(np.int64)}


def _integers(values: list[Number]) -> Any:
    """Return numbers as integers; what is absent or no number becomes NONE."""
    return np.fromiter(
        (int(v) if isinstance(v, int | float) and abs(v) < _LARGEST else NONE for v in values),
        np.int64,
        len(values),
    )


def _thread(group: list[Event]) -> Any:
    return _integers([event.tid for event in group])


def _device(groups: dict[str, list[Event]], index: _Index) -> Events:
    group: list[Event] = []
    kinds: list[int] = []
    for category, kind in DEVICE.items():
        group += groups.get(category, [])
        kinds += [int(kind)] * len(groups.get(category, []))
    if not group:
        return no_events()
    args = [event.args or Args() for event in group]
    names = np.array(index.of(group), dtype=np.int32)
    texts = tuple(index.places)
    kind_column = np.array(kinds, dtype=np.int8)
    collective = collective_places(texts)[names] & (kind_column == Kind.COMPUTE)
    kind_column[collective] = Kind.COLLECTIVE
    directions, pageable = _copies(texts)
    is_copy = kind_column == Kind.COPY
    return events(
        **_times(group),
        name=names,
        kind=kind_column,
        stream=_integers([item.stream for item in args]),
        device=_integers([item.device for item in args]),
        correlation=_integers([item.correlation for item in args]),
        bytes=_integers([item.bytes for item in args]),
        copy=np.where(is_copy, directions[names], 0),
        pageable=np.where(is_copy, pageable[names], NONE),
    )


def _copies(names: tuple[str, ...]) -> tuple[Any, Any]:
    """Return, by name index, direction and pageability of a copy: the name says both."""
    directions = np.zeros(len(names), dtype=np.int8)
    pageable = np.full(len(names), NONE, dtype=np.int8)
    for place, name in enumerate(names):
        found = _COPY.match(name)
        if found is None:
            continue
        directions[place] = _DIRECTIONS.get(found[1], Copy.UNKNOWN)
        host = found[2] if directions[place] == Copy.HTOD else found[3]
        if host in {"Pageable", "Pinned"}:
            pageable[place] = host == "Pageable"
    return directions, pageable


def _one_device(work: Events) -> tuple[Events, list[Note]]:
    """Return the work of the device that did most."""
    if not len(work):
        return work, []
    numbers, counts = np.unique(work.device, return_counts=True)
    if numbers.size == 1:
        return work, []
    chosen = int(numbers[counts.argmax()])
    note = Note(
        text=f"The process used {numbers.size} devices: device {chosen}, with most of the work, "
        "is analysed. Run one process per device"
    )
    return work.where(work.device == chosen), [note]


def _calls(group: list[Event], index: _Index) -> Events:
    if not group:
        return no_events()
    correlation = _integers([e.args.correlation if e.args else None for e in group])
    return events(
        **_times(group), name=index.of(group), thread=_thread(group), correlation=correlation
    )


def _host(group: list[Event], index: _Index) -> Events:
    if not group:
        return no_events()
    return events(**_times(group), name=index.of(group), thread=_thread(group))
