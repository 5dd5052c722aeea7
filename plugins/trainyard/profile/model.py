"""One event model for every profiler: per rank, columns of times, kinds, names and places.

All times are int64 nanoseconds on the clock of the trace; ``Clock.epoch_ns`` says how that clock
relates to UTC, and therefore whether ranks can be laid side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class Kind(IntEnum):
    """What an event on a device is."""

    COMPUTE = 0
    COLLECTIVE = 1
    COPY = 2
    SET = 3


class Copy(IntEnum):
    """Directions of a copy, numbered as CUPTI's ``CUpti_ActivityMemcpyKind``."""

    UNKNOWN = 0
    HTOD = 1
    DTOH = 2
    HTOA = 3
    ATOH = 4
    ATOA = 5
    ATOD = 6
    DTOA = 7
    DTOD = 8
    HTOH = 9
    PTOP = 10


class Format(StrEnum):
    """Which profiler wrote a trace."""

    NSYS = "nsys"
    TORCH = "torch"


NONE = -1
"""In integer columns: unknown, or not applicable."""

COLUMNS: dict[str, Any] = {
    "start": np.int64,
    "end": np.int64,
    "name": np.int32,
    "kind": np.int8,
    "stream": np.int32,
    "device": np.int16,
    "correlation": np.int64,
    "bytes": np.int64,
    "copy": np.int8,
    "pageable": np.int8,
    "thread": np.int64,
}


@dataclass(kw_only=True, slots=True, frozen=True, eq=False)
class Events:
    """Columns of equal length, sorted by start; a column that a table does not need is empty."""

    start: Array
    """Nanoseconds on the trace's clock."""
    end: Array
    """Nanoseconds, never before start."""
    name: Array
    """Index into ``RankTrace.names``."""
    kind: Array
    """``Kind``; device events only."""
    stream: Array
    """Stream of the device; device events only."""
    device: Array
    """Ordinal of the device; device events only."""
    correlation: Array
    """Joins a device event to its launching call within one process; NONE without."""
    bytes: Array
    """Bytes copied or set; NONE for kernels."""
    copy: Array
    """``Copy``; device events only."""
    pageable: Array
    """1 when the host side of a copy is pageable, 0 when pinned, NONE when unknown."""
    thread: Array
    """Thread that called or annotated; host events only."""

    def __len__(self) -> int:
        """Return the number of events."""
        return int(self.start.size)

    def where(self, mask: Array) -> Events:
        """Return the events that *mask* (booleans, or places) selects."""
        return Events(
            **{
                name: (column[mask] if column.size else column)
                for name, column in self.columns().items()
            }
        )

    def columns(self) -> dict[str, Array]:
        """Return the columns by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    def sorted(self) -> Events:
        """Return the events in order of their start; the same object when they already are."""
        if len(self) < 2 or not bool((self.start[1:] < self.start[:-1]).any()):  # noqa: PLR2004 - one is sorted
            return self
        return self.where(np.argsort(self.start, kind="stable"))

    @property
    def duration(self) -> Array:
        """Nanoseconds each event lasts."""
        duration: Array = self.end - self.start
        return duration


def events(**columns: Any) -> Events:
    """Return sorted events from the given columns; the others stay empty."""
    made = {name: np.asarray(columns.get(name, ()), dtype=kind) for name, kind in COLUMNS.items()}
    return Events(**made).sorted()


def no_events() -> Events:
    """Return a table without rows."""
    return events()


@dataclass(kw_only=True, slots=True, frozen=True)
class Clock:
    """How a trace's times relate to UTC."""

    epoch_ns: int | None = None
    """UTC nanoseconds at the trace's time 0; None when the trace does not say."""
    host: str = ""
    """Machine whose clock it is; ranks of one host compare to microseconds, others to NTP."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Note:
    """Something the reader saw that limits what may be concluded."""

    text: str
    """A sentence."""
    serious: bool = False
    """Events are missing: an absence proves nothing."""


@dataclass(kw_only=True, slots=True, frozen=True, eq=False)
class RankTrace:
    """What one rank did: its device's work, its calls, its annotations."""

    rank: int
    """Number of the rank in the job."""
    source: str
    """File it came from, for messages."""
    format: Format
    """Which profiler wrote it."""
    names: tuple[str, ...]
    """Names that the ``name`` columns index."""
    device: Events = field(default_factory=no_events)
    """Kernels, collectives, copies and sets of one device."""
    calls: Events = field(default_factory=no_events)
    """Calls of the CUDA runtime and driver."""
    ranges: Events = field(default_factory=no_events)
    """NVTX ranges, ``record_function`` annotations."""
    system: Events = field(default_factory=no_events)
    """Calls of the OS runtime (nsys osrt)."""
    overhead: Events = field(default_factory=no_events)
    """What the profiler itself took."""
    operators: Events = field(default_factory=no_events)
    """Framework operators (torch ``cpu_op``)."""
    clock: Clock = field(default_factory=Clock)
    """The trace's clock."""
    notes: tuple[Note, ...] = ()
    """What limits the conclusions."""
    gpu: str = ""
    """Name of the device; empty without one or when unknown."""
    world: int | None = None
    """Ranks of the job, where the trace says so."""
    costs: tuple[OperatorCost, ...] = ()
    """Analytic work by kernel name, where operator shapes were recorded."""

    @property
    def total(self) -> int:
        """Events of all tables."""
        tables = (self.device, self.calls, self.ranges, self.system, self.operators)
        return sum(len(table) for table in tables)

    @property
    def on_device(self) -> bool:
        """Whether any work ran on a device."""
        return len(self.device) > 0


@dataclass(kw_only=True, slots=True, frozen=True)
class OperatorCost:
    """Arithmetic and memory traffic of one kernel name, from the shapes of its operators."""

    name: str
    """Kernel name as in the trace."""
    flops: float
    """Floating-point operations of all its calls, 2 per multiply-add."""
    bytes: float
    """Bytes of all its operands, each read or written once: a lower bound."""
    calls: int
    """Calls with known shapes."""


@dataclass(kw_only=True, slots=True, frozen=True, eq=False)
class Trace:
    """The ranks of one job, in order."""

    ranks: tuple[RankTrace, ...]
    """One entry per rank, by number."""
    aligned: bool
    """The ranks' clocks can be compared."""
    notes: tuple[Note, ...] = ()
    """What limits comparisons across ranks."""

    @property
    def total(self) -> int:
        """Events of all ranks."""
        return sum(rank.total for rank in self.ranks)
