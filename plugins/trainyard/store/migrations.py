"""Bringing a results database up to the schema of this Trainyard, and refusing a newer one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from trainyard.errors import ConfigurationError
from trainyard.store.engine import MIGRATE, Engine
from trainyard.store.files import Migration, read_migrations
from trainyard.store.rows import moment
from trainyard.store.sqltext import statements

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version BIGINT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at TEXT NOT NULL
)
"""
_APPLIED = "SELECT version, name, checksum FROM schema_migrations ORDER BY version"
_RECORD = """
INSERT INTO schema_migrations (version, name, checksum, applied_at)
VALUES (:version, :name, :checksum, :applied_at)
"""
Applied = list[tuple[int, str, str]]


def apply_migrations(engine: Engine, known: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing, all in one transaction; return the names of the files applied.

    Safe when several processes start at once: one applies, the others wait and find nothing to do.
    Raises ``ConfigurationError`` for a database of a newer Trainyard and for a file that was
    edited after it had been applied.
    """
    files = read_migrations() if known is None else tuple(known)
    engine.connect(create=True)
    done: list[str] = []
    with engine.transaction():
        engine.lock_schema()
        engine.fetch(_TABLE, {})
        applied = _read(engine)
        _verify(engine, applied, files)
        for migration in files[len(applied) :]:
            for statement in statements(migration.sql):
                engine.fetch(statement, {})
            engine.fetch(_RECORD, _row(migration))
            done.append(migration.name)
    return done


def check_schema(engine: Engine, known: Sequence[Migration] | None = None) -> None:
    """Raise ``ConfigurationError`` unless the database has exactly this Trainyard's schema."""
    files = read_migrations() if known is None else tuple(known)
    applied = _read(engine)
    _verify(engine, applied, files)
    missing = [migration.name for migration in files[len(applied) :]]
    if missing:
        raise ConfigurationError(
            f"results database {engine.label} is older than this Trainyard and lacks "
            f"{', '.join(missing)}: run `{MIGRATE} URL`"
        )


def _read(engine: Engine) -> Applied:
    return [(int(v), str(n), str(c)) for v, n, c in engine.fetch(_APPLIED, {})[1]]


def _row(migration: Migration) -> dict[str, object]:
    return {
        "version": migration.version,
        "name": migration.name,
        "checksum": migration.checksum,
        "applied_at": moment(datetime.now(UTC)),
    }


def _verify(engine: Engine, applied: Applied, files: Sequence[Migration]) -> None:
    if len(applied) > len(files):
        newer = ", ".join(name for _, name, _ in applied[len(files) :])
        raise ConfigurationError(
            f"results database {engine.label} belongs to a newer Trainyard: it has {newer}, and "
            f"this one knows {len(files)} migrations. Update Trainyard, or use another database"
        )
    for (_, name, checksum), migration in zip(applied, files, strict=False):
        if (name, checksum) != (migration.name, migration.checksum):
            raise ConfigurationError(
                f"sql/migrations/{migration.name} was edited or renamed after {name} had been "
                f"applied to results database {engine.label}: put the file back as it was and "
                "write the change as a new migration"
            )
