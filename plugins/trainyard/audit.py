"""Who had a DAG run, in words for people and tags; the rows are written by ``hooks.audit``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainyard.store import Store

_WAYS = {
    "ui": "in the web UI",
    "rest_api": "through the REST API",
    "cli": "on the command line",
    "operator": "by another DAG",
    "timetable": "on schedule",
    "asset": "by an asset",
    "backfill": "in a backfill",
    "test": "in a test",
}


def triggered_by(store: Store, dag_id: str, dag_run_id: str) -> str:
    """Return for example ``ada, in the web UI``; empty where no audit row is stored."""
    rows = store.query("audit_of_dag_run", dag_id=dag_id, dag_run_id=dag_run_id)
    if not rows:
        return ""
    user, way = str(rows[0]["user_name"]), str(rows[0]["triggered_by"])
    return ", ".join((user or "Airflow", _WAYS.get(way, way or str(rows[0]["kind"]))))
