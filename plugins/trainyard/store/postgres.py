"""PostgreSQL behind the store, through psycopg 3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from trainyard.errors import ConfigurationError, TrainyardError, UnavailableError
from trainyard.store.engine import Engine, Params, redact
from trainyard.store.sqltext import to_psycopg

if TYPE_CHECKING:
    from psycopg import Connection

_SCHEMA_LOCK = 0x7472_6169_6E79_6172  # "trainyar": any number will do that nobody else takes
_translated = lru_cache(maxsize=256)(to_psycopg)


class PostgresEngine(Engine):
    """One connection to a PostgreSQL database."""

    kind = "postgresql"

    def __init__(self, url: str, timeout_s: float) -> None:
        """Remember *url*; *timeout_s* bounds connecting and waiting for a lock."""
        self._url = url
        self.label = redact(url)
        self._timeout_s = timeout_s
        self._connection: Connection[tuple[Any, ...]] | None = None

    def connect(self, *, create: bool = False) -> None:
        """Connect; a database is never created here. See ``Engine.connect``."""
        del create
        if self._connection is not None and not self._connection.closed:
            return
        with self.guard():
            self._connection = self._open()

    def _open(self) -> Connection[tuple[Any, ...]]:
        import psycopg

        opened = psycopg.connect(
            self._url,
            autocommit=True,  # this class begins and ends transactions itself
            connect_timeout=max(2, math.ceil(self._timeout_s)),  # libpq's least is 2
            application_name="trainyard",
        )
        try:
            # Bounded: a task that waits for a lock forever holds a worker slot forever.
            opened.execute(
                "SELECT set_config('lock_timeout', %s, false)",
                [f"{math.ceil(self._timeout_s * 1000)}ms"],
            )
        except BaseException:
            opened.close()
            raise
        return opened

    @property
    def connection(self) -> Connection[tuple[Any, ...]]:
        """The open connection."""
        self.connect()
        if self._connection is None:
            raise AssertionError("connect() returned without a connection")
        return self._connection

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def fetch(self, sql: str, params: Params) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one statement; see ``Engine.fetch``."""
        with self.guard():
            cursor = self.connection.execute(_translated(sql), params)
            rows = cursor.fetchall() if cursor.description else []
        return [column.name for column in cursor.description or ()], rows

    def fetch_many(self, sql: str, rows: Sequence[Params]) -> None:
        """Run one statement per row; see ``Engine.fetch_many``."""
        with self.guard(), self.connection.cursor() as cursor:
            cursor.executemany(_translated(sql), rows)

    def lock_schema(self) -> None:
        """Take the advisory lock that one migrating process holds until its transaction ends."""
        self.fetch("SELECT pg_advisory_xact_lock(:key)", {"key": _SCHEMA_LOCK})

    def _begin(self) -> None:
        self.connection.execute("BEGIN")

    def _end(self, *, commit: bool) -> None:
        opened = self._connection
        if opened is None or opened.closed:
            return
        if commit:
            opened.execute("COMMIT")
        else:
            opened.rollback()

    def translate(self, error: Exception) -> TrainyardError | None:
        """See ``Engine.translate``."""
        import psycopg
        from psycopg import errors

        detail = str(error).strip().split("\n")[0]
        if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
            return self.no_schema(detail)
        if isinstance(error, errors.DiskFull | errors.OutOfMemory):
            return self.full(detail)
        if isinstance(error, errors.ReadOnlySqlTransaction | errors.InsufficientPrivilege):
            return self.read_only(detail)
        if isinstance(error, errors.LockNotAvailable | errors.DeadlockDetected):
            return self.busy(f"waited up to {self._timeout_s:g} s: {detail}")
        if isinstance(error, psycopg.IntegrityError | psycopg.DataError):
            return self.contradiction(detail)
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return self._unreachable(detail)
        if isinstance(error, psycopg.ProgrammingError) and self._connection is None:
            return self._unreachable(detail)  # the URL itself is malformed
        return None

    def _unreachable(self, detail: str) -> TrainyardError:
        wrong = ("authentication failed", "does not exist", "no password supplied", "pg_hba.conf")
        if any(sign in detail for sign in wrong):
            return ConfigurationError(
                f"results database {self.label} refuses the login ({redact(detail)}): check user, "
                "password and database name in results_url"
            )
        return UnavailableError(
            f"results database {self.label} does not answer ({redact(detail)}); nothing of this "
            "transaction was stored. Check that PostgreSQL runs and is reachable from here, then "
            "run the task again: storing is repeatable"
        )
