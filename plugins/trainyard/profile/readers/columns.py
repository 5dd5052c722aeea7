"""Columns out of a SQLite file, through Arrow: millions of rows a second, in bounded memory.

This is a profiler's file format, not the results database (trainyard.store): the file is opened
read-only and never written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from trainyard.errors import ProfileError

if TYPE_CHECKING:
    from trainyard.profile.model import Array

BATCH_ROWS = 1 << 17
HEADER = b"SQLite format 3\x00"


class Database:
    """A read-only SQLite file: its tables, their columns, and queries into arrays."""

    def __init__(self, path: Path, cursor: Any) -> None:
        """Wrap the open *cursor* of *path*; use ``open_database``."""
        self.path = path
        self._cursor = cursor
        self.tables: dict[str, frozenset[str]] = {}
        for (name,) in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'"):
            quoted = str(name).replace("'", "''")
            found = self.rows(f"SELECT name FROM pragma_table_info('{quoted}')")  # noqa: S608
            self.tables[str(name)] = frozenset(str(row[0]) for row in found)

    def has(self, table: str, *columns: str) -> bool:
        """Whether *table* exists with all *columns*."""
        return table in self.tables and set(columns) <= self.tables[table]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a small *query*."""
        with self._explained():
            self._cursor.execute(query)
            found: list[tuple[Any, ...]] = self._cursor.fetchall()
        return found

    def arrays(self, query: str, kinds: dict[str, Any]) -> dict[str, Array]:
        """Return the integer columns of *query*, by name, as arrays of the given *kinds*.

        The query must leave no NULL (COALESCE): an array has no place for one.
        """
        parts: dict[str, list[Array]] = {name: [] for name in kinds}
        with self._explained():
            self._cursor.execute(query)
            for batch in self._cursor.fetch_record_batch():
                for (name, kind), column in zip(kinds.items(), batch.columns, strict=True):
                    values = column.to_numpy(zero_copy_only=False)
                    parts[name].append(values.astype(kind))
        joined = {}
        for name, kind in kinds.items():
            found = parts.pop(name)
            joined[name] = np.concatenate(found) if found else np.empty(0, dtype=kind)
        return joined

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the driver, and values of a wrong type, into one that says what to do."""
        import pyarrow as pa  # type: ignore[import-untyped]
        from adbc_driver_manager import Error

        try:
            yield
        except (Error, pa.ArrowException, ValueError, TypeError) as error:
            raise ProfileError(
                f"{self.path} cannot be read as a SQLite trace ({_first_line(error)}): it is "
                "truncated or damaged. Export it again: nsys export --type sqlite "
                "--force-overwrite true"
            ) from error


@contextlib.contextmanager
def open_database(path: Path) -> Iterator[Database]:
    """Open *path* read-only; raises ``ProfileError`` when it is no SQLite file."""
    from adbc_driver_manager import Error
    from adbc_driver_sqlite import dbapi

    with path.open("rb") as file:
        if file.read(len(HEADER)) != HEADER:
            raise ProfileError(
                f"{path} is not a SQLite file: export the report with nsys export --type sqlite"
            )
    try:
        connection = dbapi.connect(f"file:{quote(str(path.absolute()))}?mode=ro")
    except Error as error:
        raise ProfileError(f"{path} cannot be opened: {_first_line(error)}") from error
    try:
        options = {"adbc.sqlite.query.batch_rows": BATCH_ROWS}
        with connection.cursor(adbc_stmt_kwargs=options) as cursor:
            yield Database(path, cursor)
    finally:
        connection.close()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
