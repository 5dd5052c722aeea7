"""Building the few statements that write. Names come from this package, values are parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def insert(table: str, columns: Iterable[str]) -> str:
    """Return an ``INSERT`` of *columns* as parameters of the same names."""
    names = list(columns)
    marks = ", ".join(f":{name}" for name in names)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608


def upsert(
    table: str, columns: Iterable[str], key: Sequence[str], *, keep_filled: Sequence[str] = ()
) -> str:
    """Return an insert that replaces the row with the same *key*.

    Columns in *keep_filled* are replaced only by a value that is not empty: a writer that does not
    know a link must not erase it.
    """
    names = list(columns)
    sets = ", ".join(
        f"{name} = COALESCE(NULLIF(excluded.{name}, ''), {table}.{name})"
        if name in keep_filled
        else f"{name} = excluded.{name}"
        for name in names
        if name not in key
    )
    return f"{insert(table, names)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sets}"


def upsert_run(columns: Iterable[str], links: Sequence[str]) -> str:
    """Return the one statement that stores a row of ``runs`` unless the stored one knows more.

    It returns the run_id when the row was stored. The comparison happens inside the database,
    under the row's lock, so two writers at once cannot both believe they are the better one.
    """
    return (
        f"{upsert('runs', columns, ('run_id',), keep_filled=links)} "
        "WHERE excluded.precedence > runs.precedence OR ("
        "excluded.precedence = runs.precedence "
        "AND COALESCE(excluded.ended_at, '') >= COALESCE(runs.ended_at, '')) "
        "RETURNING run_id"
    )


def set_links(table: str, key: str, links: Mapping[str, Any], *, replace: bool) -> str:
    """Return an update of *links* where *key* equals ``:key``; of empty ones unless *replace*."""
    sets = ", ".join(
        f"{name} = :{name}" if replace else f"{name} = COALESCE(NULLIF({name}, ''), :{name})"
        for name in links
    )
    return f"UPDATE {table} SET {sets} WHERE {key} = :key"  # noqa: S608
