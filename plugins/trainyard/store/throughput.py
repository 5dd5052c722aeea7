"""How fast the results database takes rows and gives them back, without keeping any."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress

from trainyard.errors import UnavailableError
from trainyard.store import write
from trainyard.store.store import Store

_REPORT = '{"note": "a row of a throughput measurement, rolled back at once"}'


class _Undo(Exception):  # noqa: N818 - no error: it leaves the transaction
    """Ends a transaction of which nothing shall stay."""


def round_trip(store: Store, rows: int) -> float:
    """Return the seconds of inserting *rows* rows and reading them back.

    Everything happens in one transaction that is rolled back, so neither a commit's wait for the
    disk is in it, nor does anybody else see a row. Raises as every method of ``Store`` does, and
    ``UnavailableError`` when other rows come back.
    """
    site = f"throughput-{uuid.uuid4().hex}"
    columns = [
        {
            "site": site,
            "node": "none",
            "probed_at": f"2000-01-01T00:00:00.{place:06d}+00:00",
            "fingerprint": "",
            "quick": True,
            "seconds": 0.0,
            "verdict": "passed",
            "defects": "[]",
            "report": _REPORT,
            "dag_run_id": "",
        }
        for place in range(rows)
    ]
    sql = write.insert("probe_reports", columns[0])
    found = 0
    seconds = 0.0
    with suppress(_Undo), store.writing():
        begin = time.perf_counter()
        store.engine.fetch_many(sql, columns)
        found = len(store.query("probe_reports", site=site, limit=rows))
        seconds = time.perf_counter() - begin
        raise _Undo
    if found != rows:
        raise UnavailableError(f"results database: {rows} rows were inserted, {found} came back")
    return seconds
