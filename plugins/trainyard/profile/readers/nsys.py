"""Nsight Systems SQLite exports of any schema version: what is there is read, the rest is noted.

Tables are created lazily and columns vary: ``sqlite_master`` and ``pragma_table_info`` say what a
file has. Queries are built from the constants of this module alone, never from input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainyard.errors import ProfileError
from trainyard.profile.model import COLUMNS, NONE, Copy, Kind
from trainyard.profile.names import collective_places

if TYPE_CHECKING:
    from trainyard.profile.model import Array
    from trainyard.profile.readers.columns import Database

    Table = dict[str, Array]
    Kinds = dict[str, Any]

KERNEL, MEMCPY, MEMSET = (f"CUPTI_ACTIVITY_KIND_{name}" for name in ("KERNEL", "MEMCPY", "MEMSET"))
RUNTIME, DRIVER = (f"CUPTI_ACTIVITY_KIND_{name}" for name in ("RUNTIME", "DRIVER"))
GRAPH = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
RANGES = (59, 60, 70, 71)
"""NVTX event types with a length: push/pop, start/end, and the same from imported NVTXT files."""
MEMORY_KINDS = {0: "PAGEABLE", 1: "PINNED"}
"""ENUM_CUDA_MEM_KIND, where a file does not carry the table."""
PID = "/ 16777216 % 16777216"
"""globalPid and globalTid hold the process id in bits 24 to 47 (nsys User Guide)."""

# Device work belongs to a process; which of its threads launched it, the calls say.
DEVICE: Kinds = {
    **{name: kind for name, kind in COLUMNS.items() if name != "thread"},
    "pid": np.int32,
}
HOST: Kinds = {"start": np.int64, "end": np.int64, "name": np.int32, "thread": np.int64}
CALL: Kinds = {**HOST, "correlation": np.int64}


@dataclass(kw_only=True, slots=True)
class Names:
    """Every string of a file once: the StringIds first, then what other tables add."""

    texts: list[str]
    ids: Array
    """Ids of the first texts, ascending."""

    def add(self, texts: list[str]) -> int:
        """Append *texts* and return the index of the first."""
        first = len(self.texts)
        self.texts.extend(texts)
        return first

    def index(self, ids: Array) -> Array:
        """Return the index of every id; an unknown one is named "?"."""
        if not self.ids.size:
            return np.zeros(ids.size, dtype=np.int32)
        dense = int(self.ids[-1]) < 4 * self.ids.size + 1024
        if dense and int(self.ids[0]) >= 0:
            table = np.zeros(int(self.ids[-1]) + 2, dtype=np.int32)
            table[self.ids] = np.arange(1, self.ids.size + 1, dtype=np.int32)
            inside = np.clip(ids, -1, table.size - 1)
            found: Array = table[inside]
            return found
        place = np.minimum(np.searchsorted(self.ids, ids), self.ids.size - 1)
        return np.where(self.ids[place] == ids, place + 1, 0).astype(np.int32)


def names_of(base: Database) -> Names:
    """Return the StringIds; index 0 is the unknown name."""
    rows = []
    if base.has("StringIds", "id", "value"):
        rows = base.rows("SELECT id, value FROM StringIds WHERE value IS NOT NULL ORDER BY id")
    ids = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
    return Names(texts=["?", *(str(row[1]) for row in rows)], ids=ids)


def pick(base: Database, table: str, column: str, otherwise: str = "-1") -> str:
    """Return *column* of *table* without NULLs, or the constant where the schema lacks it."""
    if column in base.tables[table]:
        return f'COALESCE("{column}", {otherwise})'
    return otherwise


def nothing(kinds: Kinds) -> Table:
    """Return a table of *kinds* without rows."""
    return {name: np.empty(0, dtype=kind) for name, kind in kinds.items()}


def stack(tables: list[Table], kinds: Kinds) -> Table:
    """Return the rows of all *tables*, emptying them: the columns exist once, not twice."""
    filled = [table for table in tables if table["start"].size]
    if len(filled) == 1:
        return filled[0]
    return {
        name: np.concatenate([t.pop(name) for t in filled]) if filled else np.empty(0, dtype=kind)
        for name, kind in kinds.items()
    }


def device_work(base: Database, names: Names) -> tuple[Table, int]:
    """Return all work on devices with its process, and the graph launches seen only as a whole."""
    graphs = _graphs(base, names)
    count = int(graphs["start"].size)
    return stack(
        [_kernels(base, names), _copies(base, names), _sets(base, names), graphs], DEVICE
    ), count


def _work(base: Database, table: str, given: dict[str, str]) -> Table:
    """Return the device work of *table*; *given* are SQL expressions of its own columns."""
    if not base.has(table, "start", "end"):
        return nothing(DEVICE)
    said = {
        "start": "start",
        "end": '"end"',
        "kind": "0",
        "stream": pick(base, table, "streamId"),
        "device": pick(base, table, "deviceId", "0"),
        "correlation": pick(base, table, "correlationId"),
        "bytes": pick(base, table, "bytes"),
        "copy": "0",
        "pageable": "-1",
        "pid": f"({pick(base, table, 'globalPid', '0')}) {PID}",
        **given,
    }
    chosen = ", ".join(f'{said[name]} AS "{name}"' for name in DEVICE)
    return base.arrays(f'SELECT {chosen} FROM "{table}" WHERE "end" >= start', DEVICE)  # noqa: S608


def _kernels(base: Database, names: Names) -> Table:
    if not base.has(KERNEL, "start", "end"):
        return nothing(DEVICE)
    known = base.tables[KERNEL]
    name = next((c for c in ("demangledName", "shortName", "mangledName") if c in known), None)
    if name is None:
        raise ProfileError(
            f"{base.path}: {KERNEL} has none of demangledName, shortName and mangledName: this "
            "schema is unknown. Export again with the nsys version that captured it"
        )
    found = _work(base, KERNEL, {"name": pick(base, KERNEL, name)})
    found["name"] = names.index(found["name"])
    collective = collective_places(tuple(names.texts))
    kinds = np.where(collective, Kind.COLLECTIVE, Kind.COMPUTE).astype(np.int8)
    found["kind"] = kinds[found["name"]]
    return found


def _copies(base: Database, names: Names) -> Table:
    if not base.has(MEMCPY, "start", "end"):
        return nothing(DEVICE)
    kind = pick(base, MEMCPY, "copyKind", "0")
    source, target = pick(base, MEMCPY, "srcKind"), pick(base, MEMCPY, "dstKind")
    given = {
        "name": str(names.add(["[memcpy]"])),
        "kind": str(int(Kind.COPY)),
        "copy": kind,
        # The host's side: the source of a copy to the device, else the target.
        "pageable": f"CASE WHEN {kind} = {int(Copy.HTOD)} THEN {source} ELSE {target} END",
    }
    found = _work(base, MEMCPY, given)
    known = np.full(256, NONE, dtype=np.int8)
    for number, label in _memory_kinds(base).items():
        if label in MEMORY_KINDS.values():
            known[number] = label == MEMORY_KINDS[0]
    found["pageable"] = known[found["pageable"].view(np.uint8)]
    return found


def _memory_kinds(base: Database) -> dict[int, str]:
    if not base.has("ENUM_CUDA_MEM_KIND", "id", "name"):
        return MEMORY_KINDS
    rows = base.rows("SELECT id, name FROM ENUM_CUDA_MEM_KIND WHERE id BETWEEN 0 AND 127")
    return {int(number): str(name).rsplit("_", 1)[-1].upper() for number, name in rows}


def _sets(base: Database, names: Names) -> Table:
    given = {"name": str(names.add(["[memset]"])), "kind": str(int(Kind.SET))}
    return _work(base, MEMSET, given)


def _graphs(base: Database, names: Names) -> Table:
    return _work(base, GRAPH, {"name": str(names.add(["[CUDA graph]"])), "bytes": "-1"})


def calls_of(base: Database, names: Names) -> Table:
    """Return the calls of the CUDA runtime and, in versions that keep it apart, the driver."""
    parts = []
    for table in (RUNTIME, DRIVER):
        if base.has(table, "start", "end", "nameId"):
            extra = {"correlation": pick(base, table, "correlationId")}
            found = _host(base, table, extra, CALL)
            found["name"] = names.index(found["name"])
            parts.append(found)
    return stack(parts, CALL)


def system_calls(base: Database, names: Names, table: str = "OSRT_API") -> Table:
    """Return the calls of the OS runtime, or of another *table* of the same form."""
    if not base.has(table, "start", "end", "nameId"):
        return nothing(HOST)
    found = _host(base, table, {}, HOST)
    found["name"] = names.index(found["name"])
    return found


def _host(
    base: Database, table: str, given: dict[str, str], kinds: Kinds, where: str = ""
) -> Table:
    """Return events of *table* with their global thread ids."""
    said = {
        "start": "start",
        "end": '"end"',
        "name": pick(base, table, "nameId"),
        "thread": pick(base, table, "globalTid", "0"),
        **given,
    }
    chosen = ", ".join(f'{said[name]} AS "{name}"' for name in kinds)
    return base.arrays(f'SELECT {chosen} FROM "{table}" WHERE "end" >= start{where}', kinds)  # noqa: S608


def ranges_of(base: Database, names: Names) -> Table:
    """Return the NVTX ranges, named by their own text or by a registered string."""
    if not base.has("NVTX_EVENTS", "start", "end", "eventType"):
        return nothing(HOST)
    where = f" AND eventType IN {RANGES}"
    registered = pick(base, "NVTX_EVENTS", "textId")
    # A range that another thread ended has gone on beside the one that started it.
    begun = pick(base, "NVTX_EVENTS", "globalTid", "0")
    ended = {"thread": pick(base, "NVTX_EVENTS", "endGlobalTid", begun)}
    if "text" not in base.tables["NVTX_EVENTS"]:
        found = _host(base, "NVTX_EVENTS", ended | {"name": registered}, HOST, where)
        found["name"] = names.index(found["name"])
        return found
    own = f"{where} AND text IS NOT NULL"
    # SQLite numbers the texts in their order, so that none of them crosses into Python twice.
    numbered = ended | {"name": "DENSE_RANK() OVER (ORDER BY text) - 1"}
    free = _host(base, "NVTX_EVENTS", numbered, HOST, own)
    texts = base.rows(
        f'SELECT DISTINCT text FROM NVTX_EVENTS WHERE "end" >= start{own} ORDER BY text'  # noqa: S608
    )
    free["name"] += names.add([str(row[0]) for row in texts])
    shared = ended | {"name": registered}
    tied = _host(base, "NVTX_EVENTS", shared, HOST, f"{where} AND text IS NULL")
    tied["name"] = names.index(tied["name"])
    return stack([free, tied], HOST)
