"""SQLite behind the store: one file on a local disk, no server."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trainyard.errors import ConfigurationError, TrainyardError, UnavailableError
from trainyard.store.engine import MIGRATE, Engine, Params
from trainyard.store.files import column_types


class SqliteEngine(Engine):
    """One SQLite file: write-ahead log, so that readers and one writer do not wait for each other.

    The log needs shared memory, so the file must be on a local disk, not on a network file system.
    """

    kind = "sqlite"

    def __init__(self, path: str, timeout_s: float) -> None:
        """Remember *path*; *timeout_s* is how long a statement waits for a lock."""
        self.path = Path(path)
        self.label = str(self.path)
        self._timeout_s = timeout_s
        self._connection: sqlite3.Connection | None = None

    def connect(self, *, create: bool = False) -> None:
        """Open the file; see ``Engine.connect``."""
        if self._connection is not None:
            return
        if not self.path.exists() and not create:
            raise ConfigurationError(
                f"results database {self.label} does not exist: `make demo` makes one, or run "
                f"`{MIGRATE} sqlite:///{self.label}`"
            )
        with self.guard():
            self._connection = self._open("rwc" if create else "rw")

    def _open(self, mode: str) -> sqlite3.Connection:
        opened = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={mode}",
            uri=True,
            timeout=self._timeout_s,
            isolation_level=None,  # this class begins and ends transactions itself
        )
        try:
            opened.execute("PRAGMA foreign_keys = ON")
            # Kept in the file once set; asking first lets a reader of a read-only file through.
            if opened.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                opened.execute("PRAGMA journal_mode = WAL")
            # With a write-ahead log NORMAL survives a crash of the process, and a crash of the
            # machine costs at most the last transactions, never the file.
            opened.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            opened.close()
            raise
        return opened

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection."""
        self.connect()
        if self._connection is None:
            raise AssertionError("connect() returned without a connection")
        return self._connection

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def fetch(self, sql: str, params: Params) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one statement; see ``Engine.fetch``."""
        with self.guard():
            cursor = self.connection.execute(sql, _bind(params))
            rows = cursor.fetchall()
        names = [column[0] for column in cursor.description or ()]
        return names, _restore(names, rows)

    def fetch_many(self, sql: str, rows: Sequence[Params]) -> None:
        """Run one statement per row; see ``Engine.fetch_many``."""
        with self.guard():
            self.connection.executemany(sql, [_bind(row) for row in rows])

    def lock_schema(self) -> None:
        """``BEGIN IMMEDIATE`` already took the one write lock."""

    def _begin(self) -> None:
        # IMMEDIATE takes the write lock at once and waits for it; a transaction that starts as a
        # reader and writes later fails without waiting when another wrote in between.
        self.connection.execute("BEGIN IMMEDIATE")

    def _end(self, *, commit: bool) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("COMMIT" if commit else "ROLLBACK")

    def translate(self, error: Exception) -> TrainyardError | None:
        """See ``Engine.translate``."""
        if not isinstance(error, sqlite3.Error):
            return None
        # The low byte is the primary code; the rest tells variants of it apart.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        detail = str(error)
        if "no such table" in detail or "no such column" in detail:
            return self.no_schema(detail)
        meaning = {
            sqlite3.SQLITE_FULL: self.full,
            sqlite3.SQLITE_BUSY: self._waited,
            sqlite3.SQLITE_LOCKED: self._waited,
            sqlite3.SQLITE_READONLY: self.read_only,
            sqlite3.SQLITE_PERM: self.read_only,
            sqlite3.SQLITE_CONSTRAINT: self.contradiction,
            sqlite3.SQLITE_NOTADB: self._damaged,
            sqlite3.SQLITE_CORRUPT: self._damaged,
            sqlite3.SQLITE_CANTOPEN: self._unopened,
            sqlite3.SQLITE_IOERR: self._unopened,
            sqlite3.SQLITE_AUTH: self._unopened,
        }.get(code)
        return meaning(detail) if meaning else None

    def _waited(self, detail: str) -> TrainyardError:
        return self.busy(f"waited {self._timeout_s:g} s: {detail}")

    def _damaged(self, detail: str) -> TrainyardError:
        return ConfigurationError(
            f"results database {self.label} is damaged or no SQLite file ({detail}): move it "
            "away, or restore a copy"
        )

    def _unopened(self, detail: str) -> TrainyardError:
        return UnavailableError(
            f"results database {self.label} cannot be opened ({detail}): its folder must exist, "
            "be on a local disk and be writable by this user"
        )


def _bind(params: Params) -> dict[str, Any]:
    """Return *params* with NaN as text: SQLite stores a NaN as NULL.

    A column of reals keeps the text, and sorts it after every number, as PostgreSQL sorts NaN.
    """
    return {
        name: "NaN" if isinstance(value, float) and math.isnan(value) else value
        for name, value in params.items()
    }


def _restore(names: Sequence[str], rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return *rows* with the booleans and NaN that SQLite has no type for."""
    types = column_types()
    booleans = [i for i, name in enumerate(names) if types.get(name) == "BOOLEAN"]
    reals = [i for i, name in enumerate(names) if types.get(name) == "DOUBLE PRECISION"]
    if not booleans and not reals:
        return rows
    return [_restored(row, booleans, reals) for row in rows]


def _restored(row: tuple[Any, ...], booleans: list[int], reals: list[int]) -> tuple[Any, ...]:
    values = list(row)
    for i in booleans:
        if values[i] is not None:
            values[i] = bool(values[i])
    for i in reals:
        if values[i] == "NaN":
            values[i] = math.nan
    return tuple(values)
