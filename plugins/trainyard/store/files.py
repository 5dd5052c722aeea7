"""The SQL files of the repository: migrations in order, one named question per query file."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trainyard.errors import ConfigurationError
from trainyard.store.sqltext import parameters

_BESIDE_PLUGINS = Path(__file__).resolve().parents[3] / "sql"
_IN_ENVIRONMENT = Path(sys.prefix) / "share" / "trainyard" / "sql"
SQL_DIR = _BESIDE_PLUGINS if _BESIDE_PLUGINS.is_dir() else _IN_ENVIRONMENT
"""Migrations and queries: of this checkout or image, else where the wheel puts them."""
_MIGRATION = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_COLUMN = re.compile(r"^\s+(\w+) (TEXT|BIGINT|DOUBLE PRECISION|BOOLEAN)\b", re.MULTILINE)


@dataclass(kw_only=True, slots=True, frozen=True)
class Migration:
    """One step of the schema."""

    version: int
    """Place in the order, from 1, without gaps."""
    name: str
    """File name."""
    sql: str
    """Its statements."""

    @property
    def checksum(self) -> str:
        """SHA-256 of the text: an applied file that changes later is noticed."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(kw_only=True, slots=True, frozen=True)
class Query:
    """One named question."""

    name: str
    """File name without its ending."""
    question: str
    """The question it answers: the first line of its comment."""
    sql: str
    """The statement."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its parameters."""
        return parameters(self.sql)


def read_migrations(folder: Path = SQL_DIR / "migrations") -> tuple[Migration, ...]:
    """Return the migrations in *folder*, in order.

    Raises ``ConfigurationError`` when the folder is missing, a name has no number or the numbers
    have a gap or a double.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such folder; Trainyard runs from its repository")
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _MIGRATION.fullmatch(path.name)
        if match is None:
            raise ConfigurationError(f"{path}: name a migration NNNN_what_it_does.sql")
        found.append(Migration(version=int(match[1]), name=path.name, sql=path.read_text("utf-8")))
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        names = ", ".join(m.name for m in found)
        raise ConfigurationError(f"{folder}: number the migrations 0001, 0002 …; found {names}")
    return tuple(found)


@cache
def queries() -> dict[str, Query]:
    """Return every named query by name."""
    return {path.stem: _query(path) for path in sorted((SQL_DIR / "queries").glob("*.sql"))}


def _query(path: Path) -> Query:
    text = path.read_text("utf-8")
    first = text.splitlines()[0] if text.strip() else ""
    if not first.startswith("-- "):
        raise ConfigurationError(f"{path}: the first line must be a comment with the question")
    return Query(name=path.stem, question=first.removeprefix("-- "), sql=text)


@cache
def column_types() -> dict[str, str]:
    """Return the type of every column name: TEXT, BIGINT, DOUBLE PRECISION or BOOLEAN.

    SQLite gives a BOOLEAN back as 0 or 1 and has no NaN, so the store needs the type a name
    stands for; therefore a name has one type in the whole schema.
    """
    types: dict[str, str] = {}
    for migration in read_migrations():
        for name, kind in _COLUMN.findall(migration.sql):
            if types.setdefault(name, kind) != kind:
                raise ConfigurationError(
                    f"{migration.name}: column {name} is {kind} here and {types[name]} elsewhere; "
                    "a column name has one type in the whole schema: choose another name"
                )
    return types
