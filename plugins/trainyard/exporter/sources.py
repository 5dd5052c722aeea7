"""Sources: each read in a thread of its own, and honest about whether its reading is good."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from trainyard.exporter.catalogue import Sheet, families

log = logging.getLogger(__name__)
_PATIENCE = 3
"""Intervals without a complete reading after which a source counts as down: it may hang."""


class Source(Protocol):
    """Something to read."""

    name: str
    """Value of the label ``source``."""
    interval_s: float
    """Seconds between two readings."""

    def read(self, sheet: Sheet) -> None:
        """Put a complete reading on *sheet*, or raise; half a reading is not shown."""


@dataclass(slots=True)
class Watched:
    """A source and what became of its readings."""

    source: Source
    clock: Callable[[], float] = time.time
    sheet: Sheet = field(default_factory=Sheet)
    succeeded_at: float | None = None
    duration_s: float = 0.0
    failures: int = 0
    failing: bool = False

    def look(self) -> None:
        """Read the source once; an error is counted and told, once per outage."""
        began = time.monotonic()
        sheet = Sheet()
        try:
            self.source.read(sheet)
        except Exception as error:  # noqa: BLE001  whatever it is, the other sources go on
            self.failures += 1
            if not self.failing:
                log.warning("source %s: %s: %s", self.source.name, type(error).__name__, error)
            self.failing = True
            return
        if self.failing:
            log.info("source %s answers again", self.source.name)
        self.sheet, self.failing = sheet, False
        self.duration_s = time.monotonic() - began
        self.succeeded_at = self.clock()

    @property
    def is_up(self) -> bool:
        """Whether the last reading is complete and not too old: a hanging source is down, too."""
        if self.failing or self.succeeded_at is None:
            return False
        return self.clock() - self.succeeded_at <= _PATIENCE * self.source.interval_s + 10

    def health(self, sheet: Sheet) -> None:
        """Put how the source is on *sheet*."""
        name = self.source.name
        sheet.put("trainyard_source_up", float(self.is_up), name)
        sheet.put("trainyard_source_last_success_timestamp_seconds", self.succeeded_at, name)
        sheet.put("trainyard_source_failures_total", self.failures, name)
        if self.succeeded_at is not None:
            sheet.put("trainyard_source_duration_seconds", self.duration_s, name)


class Exporter(Collector):
    """Reads its sources in the background and gives Prometheus what is up."""

    def __init__(self, sources: Sequence[Source], fixed: Sheet | None = None) -> None:
        """Watch *sources*; *fixed* holds what never changes. ``start`` begins reading."""
        self.watched = [Watched(source) for source in sources]
        self._fixed = fixed or Sheet()
        self._stop = threading.Event()

    def collect(self) -> Iterator[Family]:
        """Yield the last complete readings; asks nobody."""
        health = Sheet()
        for one in self.watched:
            one.health(health)
        shown = [one.sheet for one in self.watched if one.is_up]
        yield from families([self._fixed, health, *shown])

    def describe(self) -> Iterator[Family]:
        """Name nothing in advance: registering must not wait for a reading."""
        return iter(())

    def start(self) -> None:
        """Read every source now and at its pace from then on, until ``stop``."""
        for one in self.watched:
            name = f"source {one.source.name}"
            threading.Thread(target=self._loop, args=(one,), name=name, daemon=True).start()

    def stop(self) -> None:
        """Begin no further reading."""
        self._stop.set()

    def _loop(self, one: Watched) -> None:
        while not self._stop.is_set():
            one.look()
            self._stop.wait(one.source.interval_s)
