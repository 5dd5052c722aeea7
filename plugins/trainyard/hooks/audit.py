"""Keeps who had which DAG run, in the results database and as one line of the scheduler's log.

Airflow has both in its own database: the DAG run's user, and in the event log every clear and every
change of a state by hand. Its database is cleaned from time to time; results are kept for years.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

from trainyard.errors import TrainyardError

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

    from trainyard.store import AuditRow

log = logging.getLogger(__name__)

TAG = "trainyard"
"""Tag of the DAGs whose runs are kept."""
TIMEOUT_S = 2.0
"""Most that the scheduler waits for the results database."""


@hookimpl
def on_dag_run_running(dag_run: DagRun, msg: str) -> None:
    """Keep a run that starts."""
    del msg
    record(dag_run)


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:
    """Keep a run that succeeded; also makes up for a start that could not be stored."""
    del msg
    record(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:
    """Keep a run that failed; also makes up for a start that could not be stored."""
    del msg
    record(dag_run)


def record(dag_run: DagRun) -> None:
    """Log and store *dag_run* if it is one of ours; whatever goes wrong, the scheduler goes on."""
    tags = getattr(getattr(dag_run, "dag", None), "tags", None)
    if tags is not None and TAG not in tags:
        return
    try:
        row = audit_row(dag_run)
        from trainyard.logs import bound

        with bound(dag_id=row.dag_id, dag_run_id=row.dag_run_id, user=row.user_name,
                   kind=row.kind, triggered_by=row.triggered_by, state=row.state):  # fmt: skip
            log.info(
                "Audit: DAG run %s of %s is %s; %s by %s through %s",
                row.dag_run_id, row.dag_id, row.state, row.kind, row.user_name or "Airflow",
                row.triggered_by or "its schedule",
            )  # fmt: skip
            _store(row)
    except Exception:  # whatever it is, the scheduler must go on
        log.exception("The audit of a DAG run could not be kept")


def _store(row: AuditRow) -> None:
    from trainyard.settings import load_settings
    from trainyard.store import open_store

    try:
        with open_store(load_settings().results_url, timeout_s=TIMEOUT_S) as store:
            store.save_audit(row)
    except TrainyardError as error:
        log.warning("Kept in this log only, until the DAG run ends: %s", error)


def audit_row(dag_run: DagRun) -> AuditRow:
    """Return who had *dag_run*; passwords and keys in its conf are masked by their names."""
    from airflow.sdk._shared.secrets_masker import redact  # the public module only masks

    from trainyard.store import AuditRow

    return AuditRow(
        dag_id=dag_run.dag_id,
        dag_run_id=dag_run.run_id,
        kind=_word(dag_run.run_type),
        triggered_by=_word(dag_run.triggered_by),
        user_name=dag_run.triggering_user_name or "",
        conf=redact(dag_run.conf or {}),
        queued_at=dag_run.queued_at or dag_run.run_after,
        started_at=dag_run.start_date,
        ended_at=dag_run.end_date,
        state=_word(dag_run.state),
        clears=dag_run.clear_number or 0,
    )


def _word(value: Any) -> str:
    """Return the text of one of Airflow's enumerations, or of what the database gave for it."""
    return str(getattr(value, "value", value) or "").lower()
