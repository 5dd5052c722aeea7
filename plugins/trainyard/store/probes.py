"""Rows about probes: what each node of a site is and reaches, verification by verification."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.contract import ProbeReport, dumps, loads
from trainyard.store import write
from trainyard.store.rows import Verdict, moment
from trainyard.store.store import Store


@dataclass(kw_only=True, slots=True, frozen=True)
class ProbeRow:
    """One node's report with its verdict."""

    site: str
    """Site that was verified."""
    report: ProbeReport
    """What its probes found."""
    fingerprint: str
    """Over the facts that change only when somebody changes them."""
    verdict: Verdict
    """Whether the node is fit to measure on."""
    defects: tuple[str, ...] = ()
    """One line each, with what to do."""
    dag_run_id: str = ""
    """Airflow DAG run."""


def save_probes(store: Store, rows: Sequence[ProbeRow]) -> None:
    """Store *rows*; a second time replaces the first.

    Raises as every method of ``Store`` does.
    """
    columns = [_columns(row) for row in rows]
    if not columns:
        return
    sql = write.upsert("probe_reports", columns[0], ("site", "node", "probed_at"))
    with store.writing():
        store.engine.fetch_many(sql, columns)


def recent_probes(store: Store, site: str, *, limit: int = 1000) -> list[ProbeRow]:
    """Return the last reports of *site*, newest first."""
    return [_row(found) for found in store.query("probe_reports", site=site, limit=limit)]


def find_probe(store: Store, site: str, start: str) -> ProbeRow | None:
    """Return the last report of *site* whose time or fingerprint begins with *start*."""
    found = store.query("probe_report", site=site, start=f"{start}%")
    return _row(found[0]) if found else None


def _columns(row: ProbeRow) -> dict[str, Any]:
    report = row.report
    return {
        "site": row.site,
        "node": report.node,
        "probed_at": moment(report.started_at, "started_at"),
        "fingerprint": row.fingerprint,
        "quick": report.quick,
        "seconds": report.seconds,
        "verdict": row.verdict.value,
        "defects": json.dumps(row.defects, ensure_ascii=False),
        "report": dumps(report, indent=None),
        "dag_run_id": row.dag_run_id,
    }


def _row(found: Mapping[str, Any]) -> ProbeRow:
    where = f"report of {found['node']} at {found['probed_at']}"
    return ProbeRow(
        site=found["site"],
        report=loads(ProbeReport, found["report"], where),
        fingerprint=found["fingerprint"],
        verdict=Verdict(found["verdict"]),
        defects=tuple(json.loads(found["defects"])),
        dag_run_id=found["dag_run_id"],
    )
