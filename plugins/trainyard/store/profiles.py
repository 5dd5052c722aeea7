"""Rows about profiles: one per profiled run, with its shares, recoverable times and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from trainyard.store import write
from trainyard.store.rows import moment, text
from trainyard.store.store import Store


@dataclass(kw_only=True, slots=True, frozen=True)
class Interval:
    """A number with its 95 % interval; every part None where it cannot be told."""

    value: float | None = None
    """The number."""
    low: float | None = None
    """Lower end."""
    high: float | None = None
    """Upper end."""


@dataclass(kw_only=True, slots=True, frozen=True)
class ShareRow:
    """A part of the profiled step."""

    rank: int | None
    """Rank; None for all together."""
    kind: str
    """class or fraction."""
    name: str
    """Which one."""
    share: Interval
    """Of the step."""


@dataclass(kw_only=True, slots=True, frozen=True)
class RecoverableRow:
    """Time that a step would save at most."""

    name: str
    """The cause."""
    ms: Interval
    """Milliseconds per step."""
    how: str
    """What would have to change."""


@dataclass(kw_only=True, slots=True, frozen=True)
class FileRow:
    """A file of a profile in the object store."""

    name: str
    """Its name below the profile."""
    uri: str
    """Where it is."""
    size_bytes: int
    """Its length."""
    sha256: str
    """Its digest."""


@dataclass(kw_only=True, slots=True, frozen=True)
class ProfileRow:
    """What the profile of one run showed; the run is stored before."""

    run_id: str
    """The profiled run."""
    dag_id: str
    """DAG that profiled."""
    dag_run_id: str
    """DAG run that profiled."""
    profiler: str
    """What made the trace."""
    mode: str
    """device or host."""
    ranks: int
    """Ranks in the trace."""
    steps: int
    """Captured steps of each."""
    bound: str
    """The class."""
    headline: str
    """The verdict as a sentence."""
    slow_rank: int | None
    """A rank the others wait for."""
    controls_bound: str
    """The class by the controls; empty when they cannot tell."""
    step_ms: Interval
    """Milliseconds per profiled step."""
    outside: Interval
    """Slowdown of the steps before the captured ones: 0.01 is 1 %."""
    inside: Interval
    """Slowdown of the captured steps."""
    pairs: int
    """Pairs of runs behind both."""
    suggestion_field: str = ""
    """Field of the spec to change first."""
    suggestion_from: str = ""
    """Its value."""
    suggestion_to: str = ""
    """The value to try."""
    suggestion_why: str = ""
    """What it should improve."""
    before_run_id: str = ""
    """Profile whose suggestion this one tries."""
    speedup: Interval = Interval()
    """Plain throughput over that before the change."""
    report_path: str
    """The report on disk."""
    report_uri: str
    """The report in the object store."""
    analysed_at: str
    """When, ISO 8601."""
    shares: Sequence[ShareRow] = ()
    """Parts of the step."""
    recoverable: Sequence[RecoverableRow] = ()
    """Largest first."""
    files: Sequence[FileRow] = ()
    """Traces, analysis and report."""


_CHILDREN = {
    "profile_shares": "shares",
    "profile_recoverable": "recoverable",
    "profile_files": "files",
}


def save_profile(store: Store, row: ProfileRow) -> None:
    """Store *row* in one transaction; a second time replaces the first.

    Raises as every method of ``Store``.
    """
    columns = _profile_columns(row)
    with store.writing():
        store.engine.fetch(write.upsert("profiles", columns, ("run_id",)), columns)
        for table, name in _CHILDREN.items():
            forget = f"DELETE FROM {table} WHERE run_id = :run_id"  # noqa: S608
            store.engine.fetch(forget, {"run_id": row.run_id})
            rows = [
                {"run_id": row.run_id, "idx": place} | _columns(item)
                for place, item in enumerate(getattr(row, name))
            ]
            if rows:
                store.engine.fetch_many(write.insert(table, rows[0]), rows)


def _profile_columns(row: ProfileRow) -> dict[str, Any]:
    names = [item.name for item in fields(row) if item.name not in _CHILDREN.values()]
    made: dict[str, Any] = {}
    for name in names:
        made |= _spread(name, getattr(row, name), name)
    return made | {"analysed_at": moment(row.analysed_at, "analysed_at")}


def _columns(item: ShareRow | RecoverableRow | FileRow) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for field in fields(item):
        value = getattr(item, field.name)
        main = "ms" if field.name == "ms" else "value"
        made |= _spread("", value, main) if isinstance(value, Interval) else {field.name: value}
    return _clean(made)


def _spread(prefix: str, value: Any, main: str) -> dict[str, Any]:
    """Return an interval as three columns, anything else as one."""
    if not isinstance(value, Interval):
        return _clean({main: value})
    before = f"{prefix}_" if prefix else ""
    return {main: value.value, f"{before}low": value.low, f"{before}high": value.high}


def _clean(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: text(v) if isinstance(v, str) else v for name, v in values.items()}
