"""The results database: every run, study, data set and environment check, in SQL.

The only part of Trainyard that speaks SQL. ``open_store`` gives a ``Store`` on SQLite or
PostgreSQL; the questions are the files of ``sql/queries``, described in docs/results.md.
"""

from __future__ import annotations

from trainyard.store.rows import (
    AuditRow,
    EnvironmentCheck,
    RunRow,
    RunState,
    StudyRow,
    StudyState,
    Verdict,
    precedence,
)
from trainyard.store.store import Store, migrate, open_store

__all__ = [
    "AuditRow",
    "EnvironmentCheck",
    "RunRow",
    "RunState",
    "Store",
    "StudyRow",
    "StudyState",
    "Verdict",
    "migrate",
    "open_store",
    "precedence",
]
