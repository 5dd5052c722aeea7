"""``Store``: saving records and asking named questions, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

from trainyard.errors import ConfigurationError
from trainyard.store import records, write
from trainyard.store.engine import Engine, make_engine
from trainyard.store.files import column_types, queries
from trainyard.store.migrations import apply_migrations, check_schema
from trainyard.store.rows import AuditRow, EnvironmentCheck, RunRow, StudyRow, moment

if TYPE_CHECKING:
    import pandas as pd

_LINKS_OF_STUDY = (
    "mlflow_experiment_id", "mlflow_run_id", "mlflow_url", "report_uri", "report_path",
)  # fmt: skip
_DATASET_COLUMNS = (
    "name", "digest", "size_bytes", "source", "licence", "retrieved_at", "bucket", "object_key",
)  # fmt: skip


def open_store(url: str, *, timeout_s: float = 15.0) -> Store:
    """Return a store on *url*: ``sqlite:////absolute/path`` or ``postgresql://user:password@host/name``.

    Connects at the first use and runs no migration. *timeout_s* bounds connecting and every wait
    for a lock. Raises ``ConfigurationError`` for another kind of URL.
    """
    return Store(make_engine(url, timeout_s))


def migrate(store: Store) -> list[str]:
    """Bring the database up to this Trainyard's schema; return the names of the files applied.

    Makes a missing SQLite file. Safe when several processes do it at once. Raises
    ``ConfigurationError`` for a database of a newer Trainyard or an edited migration.
    """
    return apply_migrations(store.engine)


class Store:
    """One connection to the results database. Use it as a context manager, in one thread.

    Every method raises ``UnavailableError`` when the database does not answer, is locked or full,
    and ``ConfigurationError`` when it cannot work as configured; nothing is ever half stored.
    """

    def __init__(self, engine: Engine) -> None:
        """Wrap *engine*; ``open_store`` makes one from a URL."""
        self.engine = engine
        self._checked = False

    def __enter__(self) -> Self:
        """Return the store itself; it connects at the first use."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; the next use connects again."""
        self.engine.close()
        self._checked = False

    # saving

    def save_run(self, row: RunRow) -> bool:
        """Store *row* and all that belongs to it in one transaction; return whether it was kept.

        Repeatable. A row that knows less than the stored one (see ``rows.precedence``) changes
        nothing but missing links, and the answer is False.
        """
        columns = records.run_columns(row)
        children = records.run_children(row)
        links = {name: columns[name] for name in records.LINK_COLUMNS}
        with self.writing():
            _, kept = self.engine.fetch(write.upsert_run(columns, tuple(links)), columns)
            if not kept:
                self._link(row.run_id, links, replace=False)
                return False
            for table, rows in children.items():
                forget = f"DELETE FROM {table} WHERE run_id = :run_id"  # noqa: S608
                self.engine.fetch(forget, {"run_id": row.run_id})
                if rows:
                    self.engine.fetch_many(write.insert(table, rows[0]), rows)
        return True

    def link_run(
        self, run_id: str, *, mlflow_run_id: str = "", mlflow_url: str = "", artifacts_uri: str = ""
    ) -> None:
        """Set where else a stored run is recorded; an empty link leaves the stored one alone."""
        given = {
            "mlflow_run_id": mlflow_run_id,
            "mlflow_url": mlflow_url,
            "artifacts_uri": artifacts_uri,
        }
        with self.writing():
            self._link(run_id, given, replace=True)

    def save_usage(self, run_id: str, jobs: Sequence[Mapping[str, Any]]) -> None:
        """Store what the cluster jobs of a stored run used; a second time replaces the first.

        *jobs* have the columns of ``run_jobs`` (see ``backends.JobUsage``).
        """
        rows = [{"run_id": run_id} | records.job_columns(job) for job in jobs]
        with self.writing():
            self.engine.fetch("DELETE FROM run_jobs WHERE run_id = :run_id", {"run_id": run_id})
            if rows:
                self.engine.fetch_many(write.insert("run_jobs", rows[0]), rows)

    def save_study(self, row: StudyRow) -> None:
        """Store *row*; a second time replaces the first, but an empty link keeps the stored one."""
        columns = records.study_columns(row)
        sql = write.upsert("studies", columns, ("study_id",), keep_filled=_LINKS_OF_STUDY)
        with self.writing():
            self.engine.fetch(sql, columns)

    def save_dataset(self, manifest: object) -> None:
        """Store the *manifest* of a staged data set: a record or mapping with its fields.

        Raises ``ConfigurationError`` naming the fields it lacks.
        """
        data = records.plain(manifest)
        missing = [name for name in _DATASET_COLUMNS if name not in data]
        if missing:
            raise ConfigurationError(f"dataset manifest lacks {', '.join(missing)}")
        columns = {name: data[name] for name in _DATASET_COLUMNS} | {
            "retrieved_at": moment(data["retrieved_at"], "retrieved_at"),
            "manifest": records.json_text(data),
        }
        with self.writing():
            self.engine.fetch(write.upsert("datasets", columns, ("name", "digest")), columns)

    def save_environment_checks(self, checks: Sequence[EnvironmentCheck]) -> None:
        """Store the *checks* of one verification; a second time replaces the first."""
        rows = [records.check_columns(place, check) for place, check in enumerate(checks)]
        if not rows:
            return
        sql = write.upsert("environment_checks", rows[0], ("site", "checked_at", "name"))
        with self.writing():
            self.engine.fetch_many(sql, rows)

    def save_audit(self, row: AuditRow) -> None:
        """Store who had a DAG run; a second time, when it ends, replaces the first."""
        columns = records.audit_columns(row)
        sql = write.upsert("dag_run_audit", columns, ("dag_id", "dag_run_id"))
        with self.writing():
            self.engine.fetch(sql, columns)

    # asking

    def query(self, name: str, /, **params: Any) -> list[dict[str, Any]]:
        """Return the rows that answer the question ``sql/queries/<name>.sql``, as dictionaries.

        Booleans are bool, times ISO 8601 text in UTC, lists JSON text. Raises
        ``ConfigurationError`` for an unknown question or other parameters than it names.
        """
        names, rows = self._ask(name, params)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def frame(self, name: str, /, **params: Any) -> pd.DataFrame:
        """Return the same as ``query`` as a data frame.

        Its columns have the same types whatever the database and however few rows there are: real
        numbers are float64 (a missing one is NaN), whole numbers int64, or float64 where one is
        missing.
        """
        import pandas as pd

        names, rows = self._ask(name, params)
        types = column_types()
        columns = zip(*rows, strict=True) if rows else ((),) * len(names)
        return pd.DataFrame(
            {
                column: pd.Series(values, dtype=_dtype(types.get(column), values))
                for column, values in zip(names, columns, strict=True)
            }
        )

    def run(self, run_id: str) -> RunRow | None:
        """Return the stored run, or None; ``save_run`` takes it back unchanged."""
        found = self.query("run", run_id=run_id)
        if not found:
            return None
        children = {table: self.query(table, run_id=run_id) for table in records.CHILD_TABLES}
        return records.run_row(found[0], children)

    def study(self, study_id: str) -> StudyRow | None:
        """Return the stored study, or None; change it with ``dataclasses.replace`` and save it."""
        found = self.query("study", study_id=study_id)
        return records.study_row(found[0]) if found else None

    # inside

    def _ask(self, name: str, params: Mapping[str, Any]) -> tuple[list[str], list[tuple[Any, ...]]]:
        known = queries()
        if name not in known:
            raise ConfigurationError(
                f"query {name!r} is unknown; choose from {', '.join(sorted(known))}"
            )
        wanted = known[name].parameters
        if set(wanted) != set(params):
            raise ConfigurationError(
                f"query {name!r} takes {', '.join(wanted)}; given {', '.join(params) or 'nothing'}"
            )
        self._check()
        return self.engine.fetch(known[name].sql, params)

    def _check(self) -> None:
        """Once per connection: the schema must be the one this code was written for."""
        if not self._checked:
            self.engine.connect()
            check_schema(self.engine)
            self._checked = True

    def writing(self) -> AbstractContextManager[None]:
        """Return a transaction for a module of this package that writes tables of its own."""
        self._check()
        return self.engine.transaction()

    def _link(self, run_id: str, links: Mapping[str, str], *, replace: bool) -> None:
        given = {name: link for name, link in links.items() if link}
        if given:
            sql = write.set_links("runs", "run_id", given, replace=replace)
            self.engine.fetch(sql, {**given, "key": run_id})


def _dtype(kind: str | None, values: Sequence[Any]) -> str | None:
    """Return the pandas type of a column, None where pandas should look at the values."""
    if kind is None:
        return None
    if kind == "DOUBLE PRECISION":
        return "float64"
    if kind == "BIGINT":
        return "float64" if any(value is None for value in values) else "int64"
    if kind == "BOOLEAN" and all(value is not None for value in values):
        return "bool"
    return "object"
