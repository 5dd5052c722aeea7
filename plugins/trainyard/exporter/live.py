"""One live run: its folder followed line by line, and the state its events add up to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.contract import RunSpec, WindowKind
from trainyard.exporter.catalogue import Sheet
from trainyard.paths import RunPaths
from trainyard.runlog import Follower

_LOOKS = 64
"""Most reads of one file in one pass, 64 KiB each: a flood is caught up with, pass by pass."""
_PREFIX = "trainyard_run_"


@dataclass(kw_only=True, slots=True)
class Progress:
    """What the events of one run add up to; a field is None until an event says it."""

    phase: str = ""
    """Last phase announced."""
    seen_at: float | None = None
    """Time of the last event, seconds since 1970."""
    values: dict[str, float] = field(default_factory=dict)
    """Last value of each metric, by its name without the prefix."""
    flags: set[str] = field(default_factory=set)
    """Flags raised."""
    skipped: int = 0
    """Lines that were no event."""

    def take(self, line: str) -> None:
        """Take one line of metrics.jsonl; one that is no event is counted and changes nothing."""
        try:
            event = json.loads(line)
            reader = _READERS.get(event["event"])
            values = reader(event) if reader else {}
            at = datetime.fromisoformat(event["time"]).timestamp()
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
            self.skipped += 1
            return
        self.seen_at = at
        self.values |= values
        if event["event"] == "phase":
            self.phase = str(event.get("name", ""))[:40]
        elif event["event"] == "flag":
            self.flags.add(str(event.get("name", ""))[:40])


def _number(event: Mapping[str, Any], key: str) -> float:
    value = event[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} = {value!r} is no number")
    return float(value)


def _plan(event: Mapping[str, Any]) -> dict[str, float]:
    return {"step": _number(event, "step"), "planned_steps": _number(event, "steps")}


def _epoch(event: Mapping[str, Any]) -> dict[str, float]:
    found = {"epoch": _number(event, "index") + 1}
    return found | {"train_accuracy_ratio": _number(event, "train_accuracy")}


def _window(event: Mapping[str, Any]) -> dict[str, float]:
    """Return what a window of real steps says; a control's leaves parts of the work out."""
    if event["kind"] != WindowKind.TRAIN:
        return {}
    by_rank = [float(seconds) for seconds in event["seconds_by_rank"]]
    slowest = max(by_rank)
    found = {
        "step": _number(event, "step"),
        "loss": _number(event, "loss"),
        "images_per_second": _number(event, "images") / slowest,
        "step_time_seconds": slowest / _number(event, "steps"),
        "rank_imbalance_ratio": (slowest - min(by_rank)) / slowest,
        "foreign_load_cores": _number(event, "foreign_load"),
    }
    if "data_wait_s" in event:
        found["data_wait_ratio"] = _number(event, "data_wait_s") / by_rank[0]
    if "cpu_seconds" in event:
        found["cpu_busy_cores"] = _number(event, "cpu_seconds") / slowest
    for key, name in _USED.items():
        if key in event:
            found[name] = _number(event, key)
    if not all(math.isfinite(value) for value in found.values()):
        raise ValueError("a window with a number that is none")
    return found


_USED = {
    "resident_bytes": "resident_memory_bytes",
    "gpu_memory_bytes": "gpu_memory_bytes",
    "gpu_utilisation": "gpu_utilisation_ratio",
}
_READERS = {"plan": _plan, "epoch": _epoch, "window": _window}


@dataclass(kw_only=True, slots=True)
class LiveRun:
    """A run folder that is followed."""

    paths: RunPaths
    """Its files."""
    spec: RunSpec
    """What runs."""
    site: str
    """Name of its site; empty when several share the folder and no plan says which."""
    launcher: str
    """What started it; empty like the site."""
    study: str
    """Study it belongs to; empty for none."""
    started_at: float
    """When its spec was written, seconds since 1970."""
    longest_s: float | None
    """Seconds after which its site ends it; None when the site is unknown."""
    ended_at: float | None = None
    """When it ended; None while it goes on."""
    progress: Progress = field(default_factory=Progress)
    """What it said."""
    inode: int = 0
    """Inode of the file that is followed: a run that starts over makes a new one."""
    follower: Follower = field(init=False)

    def __post_init__(self) -> None:
        """Follow the run's events from their beginning."""
        self.follower = Follower(path=self.paths.metrics)

    @property
    def labels(self) -> tuple[str, ...]:
        """Values of ``catalogue.RUN``."""
        spec = self.spec
        return (self.paths.run_id, self.study, spec.model.value, str(spec.ranks), self.site)

    @property
    def active_at(self) -> float:
        """When something last happened."""
        return max(self.started_at, self.progress.seen_at or 0.0)

    def follow(self) -> None:
        """Take the lines written since the last look."""
        inode = _inode(self.paths.metrics)
        if inode != self.inode:
            self.follower, self.inode = Follower(path=self.paths.metrics), inode
            self.progress = Progress(skipped=self.progress.skipped)
        for _ in range(_LOOKS):
            lines = self.follower.lines()
            for line in lines:
                self.progress.take(line)
            if not lines:
                return

    def show(self, sheet: Sheet) -> None:
        """Put the run on *sheet*."""
        spec, labels, progress = self.spec, self.labels, self.progress
        more = (spec.name, spec.dataset.value, spec.precision.value, str(spec.global_batch))
        sheet.put(f"{_PREFIX}info", 1, *labels, *more, self.launcher)
        sheet.put(f"{_PREFIX}active", float(self.ended_at is None), *labels)
        sheet.put(f"{_PREFIX}started_timestamp_seconds", self.started_at, *labels)
        sheet.put(f"{_PREFIX}last_event_timestamp_seconds", progress.seen_at, *labels)
        if self.longest_s is not None and self.ended_at is None:
            deadline = self.started_at + self.longest_s
            sheet.put(f"{_PREFIX}deadline_timestamp_seconds", deadline, *labels)
        if progress.phase:
            sheet.put(f"{_PREFIX}phase", 1, *labels, progress.phase)
        for name, value in progress.values.items():
            sheet.put(f"{_PREFIX}{name}", value, *labels)
        for flag in progress.flags:
            sheet.put(f"{_PREFIX}flag", 1, *labels, flag)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
