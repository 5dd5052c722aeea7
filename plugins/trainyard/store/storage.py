"""Rows about storage: versions of data sets, and which files of a run are in the object store."""

from __future__ import annotations

from datetime import UTC, datetime

from trainyard.store import write
from trainyard.store.rows import moment, text
from trainyard.store.store import Store


def register_version(store: Store, name: str, digest: str) -> int:
    """Return the version of *name* that is *digest*; the next number when it has none yet.

    The database decides, so that two hosts at once agree. A deleted version that is staged again
    comes back under its number. Raises as every method of ``Store``.
    """
    now = moment(datetime.now(UTC).isoformat(), "registered_at")
    given = {"name": name, "digest": digest, "registered_at": now}
    insert = (
        "INSERT INTO dataset_versions (name, version, digest, registered_at) "
        "SELECT :name, COALESCE(MAX(version), 0) + 1, :digest, :registered_at "
        "FROM dataset_versions WHERE name = :name ON CONFLICT DO NOTHING"
    )
    revive = (
        "UPDATE dataset_versions SET deleted_at = NULL WHERE name = :name AND digest = :digest "
        "RETURNING version"
    )
    while True:
        with store.writing():
            _, rows = store.engine.fetch(revive, {"name": name, "digest": digest})
            if rows:
                return int(rows[0][0])
            # Another host may take the same number at this moment: then nothing is inserted.
            store.engine.fetch(insert, given)


def forget_version(store: Store, name: str, version: int) -> None:
    """Mark a version as deleted; its number is never given to another digest."""
    now = moment(datetime.now(UTC).isoformat(), "deleted_at")
    sql = (
        "UPDATE dataset_versions SET deleted_at = :deleted_at "
        "WHERE name = :name AND version = :version"
    )
    with store.writing():
        store.engine.fetch(sql, {"name": name, "version": version, "deleted_at": now})


def save_artifacts(
    store: Store, run_id: str, *, stored: int, missing: int, size_bytes: int, detail: str
) -> None:
    """Store how complete the files of a stored run are; a second time replaces the first."""
    columns = {
        "run_id": run_id,
        "stored": stored,
        "missing": missing,
        "size_bytes": size_bytes,
        "detail": text(detail),
    }
    with store.writing():
        store.engine.fetch(write.upsert("run_artifacts", columns, ("run_id",)), columns)
