"""One Nsight Systems export as ranks: which processes trained, on what clock, what is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from trainyard.errors import ProfileError
from trainyard.profile.model import Clock, Events, Format, Note, RankTrace, events
from trainyard.profile.readers import nsys
from trainyard.profile.readers.columns import Database, open_database
from trainyard.profile.steps import is_step

if TYPE_CHECKING:
    from pathlib import Path

    from trainyard.profile.model import Array

WARNING = 2
"""Severity levels of DIAGNOSTIC_EVENT: 1 information, 2 warning, 3 error."""
_ABOUT = ("META_DATA_EXPORT", "EXPORT_META_DATA")
"""What describes the export: now, and in 2022."""
_LOSS = re.compile(r"lost|dropped|discarded|not all|might not|may be incomplete|no cuda", re.I)


def read_nsys(path: Path, rank: int | None = None) -> list[RankTrace]:
    """Return the ranks in the export *path*: one for each process that trained.

    *rank* numbers the only process of a file; several are numbered in the order of their ids.
    Raises ``ProfileError`` for a file of another program, a damaged one, and one that holds neither
    device work nor ranges.
    """
    with open_database(path) as base:
        _check(base)
        names = nsys.names_of(base)
        device, graphs = nsys.device_work(base, names)
        tables = {
            "ranges": nsys.ranges_of(base, names),
            "calls": nsys.calls_of(base, names),
            "system": nsys.system_calls(base, names),
            "overhead": nsys.system_calls(base, names, "PROFILER_OVERHEAD"),
        }
        notes = _notes(base, graphs, has_calls=bool(tables["calls"]["start"].size))
        pids = _trained(device, tables["ranges"], names.texts)
        if not pids:
            raise ProfileError(_why_empty(base, notes))
        whole = RankTrace(
            rank=0,
            source=str(path),
            format=Format.NSYS,
            names=tuple(names.texts),
            clock=_clock(base),
            notes=tuple(notes),
        )
        gpus = _gpus(base)
    return _split(whole, pids, rank, device, tables, gpus)


def _check(base: Database) -> None:
    if {*_ABOUT, "TARGET_INFO_SESSION_START_TIME", "StringIds"} & base.tables.keys():
        return
    known = ", ".join(sorted(base.tables)[:5]) or "no table at all"
    raise ProfileError(
        f"{base.path} is a SQLite file of another program ({known}): give the file that nsys "
        "export --type sqlite wrote"
    )


def _notes(base: Database, graphs: int, *, has_calls: bool) -> list[Note]:
    notes = _diagnostics(base)
    if graphs:
        notes.append(
            Note(
                text=f"{graphs} CUDA graph launches are recorded as a whole: the kernels inside, "
                "collectives among them, cannot be told apart. Capture with "
                "--cuda-graph-trace=node",
                serious=True,
            )
        )
    if nsys.KERNEL in base.tables and not has_calls:
        notes.append(
            Note(
                text="The trace has kernels but no CUDA calls (CUPTI_ACTIVITY_KIND_RUNTIME is "
                "missing): host and synchronisation gaps cannot be told. Capture with -t cuda",
                serious=True,
            )
        )
    return notes


def _diagnostics(base: Database) -> list[Note]:
    """Return what nsys itself says went wrong while it recorded."""
    if not base.has("DIAGNOSTIC_EVENT", "text", "severity"):
        return []
    rows = base.rows(
        f"SELECT DISTINCT severity, text FROM DIAGNOSTIC_EVENT WHERE severity >= {WARNING} "  # noqa: S608
        "AND text IS NOT NULL LIMIT 20"
    )
    return [
        Note(
            text=f"nsys says: {' '.join(str(text).split())[:300]}",
            serious=int(level) > WARNING or _LOSS.search(str(text)) is not None,
        )
        for level, text in rows
    ]


def _clock(base: Database) -> Clock:
    epoch = None
    if base.has("TARGET_INFO_SESSION_START_TIME", "utcEpochNs"):
        rows = base.rows("SELECT utcEpochNs FROM TARGET_INFO_SESSION_START_TIME LIMIT 1")
        epoch = int(rows[0][0]) if rows and rows[0][0] is not None else None
    host = ""
    if base.has("TARGET_INFO_SYSTEM_ENV", "name", "value"):
        rows = base.rows("SELECT value FROM TARGET_INFO_SYSTEM_ENV WHERE name = 'Hostname' LIMIT 1")
        host = str(rows[0][0]) if rows else ""
    return Clock(epoch_ns=epoch, host=host)


def _gpus(base: Database) -> dict[int, str]:
    if not base.has("TARGET_INFO_GPU", "id", "name"):
        return {}
    rows = base.rows("SELECT id, name FROM TARGET_INFO_GPU")
    return {int(number): str(name) for number, name in rows if name is not None}


def _trained(device: nsys.Table, ranges: nsys.Table, texts: list[str]) -> list[int]:
    """Return the ids of the processes that used a device, else had steps, else any range."""
    working = np.unique(device["pid"])
    if working.size:
        return [int(pid) for pid in working]
    pids = _pids(ranges["thread"])
    used = np.unique(ranges["name"])
    steps = [number for number in used if is_step(texts[number])]
    stepping = np.unique(pids[np.isin(ranges["name"], steps)])
    return [int(pid) for pid in (stepping if stepping.size else np.unique(pids))]


def _pids(threads: Array) -> Array:
    pids: Array = (threads >> 24) & 0xFFFFFF
    return pids


def _why_empty(base: Database, notes: list[Note]) -> str:
    said = " ".join(note.text for note in notes)
    known = [
        str(row[0])
        for table in _ABOUT
        if base.has(table, "name", "value")
        for row in base.rows(f"SELECT value FROM {table} WHERE name LIKE 'EXPORT_SCHEMA_VERSION'")  # noqa: S608
    ]
    version = f" (schema {known[0]})" if known else ""
    return (
        f"{base.path} holds neither device work nor NVTX ranges{version}: there is nothing to "
        "analyse. Capture with -t cuda,nvtx,osrt around running steps, and check that the "
        f"profiled window was reached. {said}".strip()
    )


def _split(
    whole: RankTrace,
    pids: list[int],
    rank: int | None,
    device: nsys.Table,
    tables: dict[str, nsys.Table],
    gpus: dict[int, str],
) -> list[RankTrace]:
    """Return one rank for each of *pids*; the columns of a lone one are not copied."""
    made = []
    for place, pid in enumerate(pids):
        number = rank if rank is not None and len(pids) == 1 else place
        mine = {}
        for name, table in tables.items():
            keep = _owned(name, table, pid, alone=len(pids) == 1)
            mine[name] = _events(table, keep)
        table = dict(device)
        owner = table.pop("pid")
        work = _events(table, None if len(pids) == 1 else owner == pid)
        work, gpu, notes = _one_device(work, gpus)
        made.append(
            replace(
                whole,
                rank=number,
                device=work,
                ranges=mine["ranges"],
                calls=mine["calls"],
                system=mine["system"],
                overhead=mine["overhead"],
                gpu=gpu,
                notes=(*whole.notes, *notes),
            )
        )
    return made


def _owned(name: str, table: nsys.Table, pid: int, *, alone: bool) -> Array | None:
    """Return which rows of a host table belong to process *pid*; None for all of them."""
    # A kernel table of an old schema does not name its process: pid 0 owns all there is.
    if pid == 0 or (alone and name not in {"ranges", "calls"}):
        return None
    mine: Array = _pids(table["thread"]) == pid
    if name == "calls" and alone and (mine.all() or not mine.any()):
        # Nobody else's, so that nothing needs copying; or the file numbers processes in two ways.
        return None
    return mine


def _events(table: nsys.Table, keep: Array | None) -> Events:
    if keep is None:
        return events(**table)
    return events(**{name: column[keep] for name, column in table.items()})


def _one_device(work: Events, gpus: dict[int, str]) -> tuple[Events, str, list[Note]]:
    """Return the work of the device that did most, its name, and a note when there are more."""
    if not len(work):
        return work, "", []
    numbers, counts = np.unique(work.device, return_counts=True)
    chosen = int(numbers[counts.argmax()])
    gpu = gpus.get(chosen, "")
    if numbers.size == 1:
        return work, gpu, []
    note = Note(
        text=f"The process used devices {', '.join(map(str, numbers))}: device {chosen}, with "
        "most of the work, is analysed. Run one process per device"
    )
    return work.where(work.device == chosen), gpu, [note]
