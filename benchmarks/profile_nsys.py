"""Timelines as the SQLite files of Nsight Systems, by the schema its User Guide documents."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.profile_generator import COPY, Timeline


@dataclass(frozen=True)
class Schema:
    """What varies between versions of the export."""

    version: str = "3.7.2"
    text_id: bool = True
    """NVTX_EVENTS has textId."""
    registered: bool = False
    """Range names are registered strings: textId instead of text."""
    enums: bool = True
    global_pid: bool = True
    driver_table: bool = False
    """Driver calls stand in a table of their own."""
    short_names_only: bool = False
    omit: tuple[str, ...] = ()
    """Tables left out: they are created lazily."""
    graph: str = "node"
    """Kernels in graphs: node (each kernel) or graph (one event per launch)."""
    utc: bool = True
    diagnostics: tuple[tuple[int, str], ...] = ()


SCHEMAS = {
    "2023.4": Schema(),
    "2020.3, text only, no enums": Schema(version="2.0.0", text_id=False, enums=False),
    "registered strings, driver apart": Schema(
        version="3.17.1", registered=True, driver_table=True
    ),
    "no process ids on kernels": Schema(version="2.4.1", global_pid=False),
    "short names only": Schema(version="3.0.0", short_names_only=True),
}
PID = 4321
EPOCH = 1_760_000_000_000_000_000


def write_nsys(
    path: Path,
    made: Timeline,
    schema: Schema = Schema(),
    *,
    pid: int = PID,
    epoch: int = EPOCH,
    host: str = "node-01",
    gpu: str = "NVIDIA H100 80GB HBM3",
) -> Path:
    """Write *made* as the SQLite file nsys would export; returns *path*."""
    path.unlink(missing_ok=True)
    base = sqlite3.connect(path)
    for line in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-200000"):
        base.execute(f"PRAGMA {line}")
    _write_about(base, schema, epoch, host, gpu)
    ids = _write_strings(base, made, schema)
    _write_device(base, made, schema, ids, pid)
    _write_calls(base, made, schema, ids, pid)
    _write_ranges(base, made, schema, ids, pid)
    for table in schema.omit:
        base.execute(f"DROP TABLE IF EXISTS {table}")
    base.commit()
    base.close()
    return path


def _write_about(base: sqlite3.Connection, schema: Schema, epoch: int, host: str, gpu: str) -> None:
    base.execute("CREATE TABLE META_DATA_EXPORT (name TEXT NOT NULL, value TEXT)")
    base.execute(
        "INSERT INTO META_DATA_EXPORT VALUES ('EXPORT_SCHEMA_VERSION', ?)", (schema.version,)
    )
    base.execute("CREATE TABLE TARGET_INFO_SYSTEM_ENV (name TEXT NOT NULL, value TEXT NOT NULL)")
    base.execute("INSERT INTO TARGET_INFO_SYSTEM_ENV VALUES ('Hostname', ?)", (host,))
    base.execute("CREATE TABLE TARGET_INFO_GPU (id INTEGER NOT NULL, name TEXT)")
    base.execute("INSERT INTO TARGET_INFO_GPU VALUES (0, ?)", (gpu,))
    if schema.utc:
        base.execute("CREATE TABLE TARGET_INFO_SESSION_START_TIME (utcEpochNs INTEGER)")
        base.execute("INSERT INTO TARGET_INFO_SESSION_START_TIME VALUES (?)", (epoch,))
    if schema.enums:
        base.execute("CREATE TABLE ENUM_CUDA_MEM_KIND (id INTEGER, name TEXT, label TEXT)")
        kinds = ("PAGEABLE", "PINNED", "DEVICE", "ARRAY", "MANAGED")
        base.executemany(
            "INSERT INTO ENUM_CUDA_MEM_KIND VALUES (?, ?, ?)",
            [(n, f"CUDA_MEMOPR_MEMORY_KIND_{k}", k.title()) for n, k in enumerate(kinds)],
        )
    if schema.diagnostics:
        base.execute(
            "CREATE TABLE DIAGNOSTIC_EVENT (timestamp INTEGER, severity INTEGER, text TEXT)"
        )
        base.executemany("INSERT INTO DIAGNOSTIC_EVENT VALUES (0, ?, ?)", schema.diagnostics)


def _write_strings(base: sqlite3.Connection, made: Timeline, schema: Schema) -> dict[str, int]:
    base.execute("CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL)")
    texts = list(dict.fromkeys([*made.names, *(n for _, _, n in made.ranges if schema.registered)]))
    shorts = [short(name) for name in made.names]
    texts = list(dict.fromkeys([*texts, *shorts]))
    ids = {text: 3 * place + 5 for place, text in enumerate(texts)}
    base.executemany("INSERT INTO StringIds VALUES (?, ?)", [(n, t) for t, n in ids.items()])
    return ids


def short(name: str) -> str:
    """Return the name as nsys shortName has it."""
    head = name.removeprefix("void ")
    for mark in ("<", "("):
        head = head.split(mark, 1)[0]
    return head.rsplit("::", 1)[-1] or name


def _rows(*columns: Any) -> Iterator[tuple[Any, ...]]:
    """Yield rows of numpy columns and constants, a slice at a time."""
    length = max(len(c) for c in columns if isinstance(c, np.ndarray))
    for low in range(0, length, 1 << 16):
        high = min(length, low + (1 << 16))
        parts = [
            c[low:high].tolist() if isinstance(c, np.ndarray) else [c] * (high - low)
            for c in columns
        ]
        yield from zip(*parts, strict=True)


def _write_device(
    base: sqlite3.Connection, made: Timeline, schema: Schema, ids: dict[str, int], pid: int
) -> None:
    work = made.device
    pid_column = "globalPid INTEGER, " if schema.global_pid else ""
    pid_value = (pid << 24,) if schema.global_pid else ()
    pid_mark = ", ?" if schema.global_pid else ""
    is_kernel = work["kind"] < COPY
    if schema.graph == "graph":
        _write_graphs(base, made, pid)
        is_kernel = np.zeros_like(is_kernel)
    full = np.array([ids[name] for name in made.names])
    brief = np.array([ids[short(name)] for name in made.names])
    k = {name: column[is_kernel] for name, column in work.items()}
    named = "" if schema.short_names_only else "demangledName INTEGER NOT NULL, "
    base.execute(
        "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER NOT NULL, end INTEGER NOT NULL, "
        "deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, "
        f"correlationId INTEGER, {pid_column}{named}shortName INTEGER NOT NULL, "
        "gridX INTEGER NOT NULL, graphNodeId INTEGER)"
    )
    both = (brief[k["name"]],) if schema.short_names_only else (full[k["name"]], brief[k["name"]])
    marks = "?, " * len(both)
    if k["start"].size:
        base.executemany(
            f"INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, 0, 1, ?, ?{pid_mark}, {marks}1, "
            "NULL)",
            _rows(k["start"], k["end"], k["stream"], k["correlation"], *pid_value, *both),
        )
    c = {name: column[work["kind"] == COPY] for name, column in work.items()}
    if c["start"].size:
        base.execute(
            "CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER NOT NULL, end INTEGER NOT NULL,"
            " deviceId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER, "
            f"{pid_column}bytes INTEGER NOT NULL, copyKind INTEGER NOT NULL, srcKind INTEGER, "
            "dstKind INTEGER)"
        )
        base.executemany(
            f"INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (?, ?, 0, ?, ?{pid_mark}, ?, ?, ?, 2)",
            _rows(
                c["start"], c["end"], c["stream"], c["correlation"], *pid_value,
                c["bytes"], c["copy"], c["source"],
            ),
        )  # fmt: skip


def _write_graphs(base: sqlite3.Connection, made: Timeline, pid: int) -> None:
    """Write each step's kernels as one graph launch, as --cuda-graph-trace=graph does."""
    work = made.device
    starts = np.array([low for low, _, name in made.ranges if name.startswith("step ")])
    step = np.searchsorted(starts, work["start"], side="right") - 1
    kernel = work["kind"] < COPY
    base.execute(
        "CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start INTEGER NOT NULL, "
        "end INTEGER NOT NULL, deviceId INTEGER NOT NULL, streamId INTEGER NOT NULL, "
        "correlationId INTEGER, "
        "globalPid INTEGER, graphId INTEGER, graphExecId INTEGER)"
    )
    for number in np.unique(step[kernel]):
        mine = kernel & (step == number)
        row = (int(work["start"][mine].min()), int(work["end"][mine].max()))
        first = int(work["correlation"][mine][0])
        base.execute(
            "INSERT INTO CUPTI_ACTIVITY_KIND_GRAPH_TRACE VALUES (?, ?, 0, 7, ?, ?, 1, 1)",
            (*row, first, pid << 24),
        )


def _write_calls(
    base: sqlite3.Connection, made: Timeline, schema: Schema, ids: dict[str, int], pid: int
) -> None:
    calls = made.calls
    driver = np.array(
        [name.startswith("cu") and not name.startswith("cuda") for name in made.names]
    )
    apart = driver[calls["name"]] if schema.driver_table else np.zeros(len(calls["name"]), bool)
    full = np.array([ids[name] for name in made.names])
    for table, mask in (("RUNTIME", ~apart), ("DRIVER", apart)):
        if not mask.any():
            continue
        base.execute(
            f"CREATE TABLE CUPTI_ACTIVITY_KIND_{table} (start INTEGER NOT NULL, "
            "end INTEGER NOT NULL, eventClass INTEGER NOT NULL, globalTid INTEGER, "
            "correlationId INTEGER, "
            "nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL)"
        )
        base.executemany(
            f"INSERT INTO CUPTI_ACTIVITY_KIND_{table} VALUES (?, ?, 0, ?, ?, ?, 0)",
            _rows(
                calls["start"][mask], calls["end"][mask], (pid << 24) + pid,
                calls["correlation"][mask], full[calls["name"][mask]],
            ),
        )  # fmt: skip


def _write_ranges(
    base: sqlite3.Connection, made: Timeline, schema: Schema, ids: dict[str, int], pid: int
) -> None:
    text_id = ", textId INTEGER" if schema.text_id else ""
    base.execute(
        "CREATE TABLE NVTX_EVENTS (start INTEGER NOT NULL, end INTEGER, "
        f"eventType INTEGER NOT NULL, text TEXT, globalTid INTEGER{text_id})"
    )
    thread = (pid << 24) + pid
    rows: list[tuple[Any, ...]] = [(500, None, 75, "a domain", thread)]
    for low, high, name in made.ranges:
        kind = 60 if name == "data" else 59
        rows.append((low, high, kind, None if schema.registered else name, thread))
    if schema.text_id:
        rows = [
            (*row, ids[name] if schema.registered and place else None)
            for place, (row, name) in enumerate(
                zip(rows, ["", *(n for _, _, n in made.ranges)], strict=True)
            )
        ]
    marks = ", ".join("?" * len(rows[0]))
    base.executemany(f"INSERT INTO NVTX_EVENTS VALUES ({marks})", rows)
