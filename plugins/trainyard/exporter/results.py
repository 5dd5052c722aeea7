"""What the results database knows: how runs ended, the last figures, the nights, regressions."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from trainyard.exporter.catalogue import Sheet
from trainyard.exporter.reasons import REASONS, classify
from trainyard.settings import Settings

if TYPE_CHECKING:
    from trainyard.analysis.regression import Better, Night
    from trainyard.store import Store

NIGHTLY = "nightly_benchmark"
"""The DAG whose studies count as nights."""
METRICS = {
    "images_per_second": "higher",
    "step_time_s": "lower",
    "epoch_time_s": "lower",
    "test_accuracy": "higher",
    "peak_memory_bytes": "lower",
}
"""Metric of a run to the direction in which it gets better."""
HISTORY_DAYS = 45
"""Days of nights that are compared: what is older has left the reference."""
_MOST_CONFIGURATIONS = 300
Row = dict[str, Any]


@dataclass(kw_only=True, slots=True)
class Results:
    """Asks the results database its named questions."""

    settings: Settings
    """Where it is."""
    name: str = "results"
    interval_s: float = 60.0
    clock: Callable[[], float] = time.time

    def read(self, sheet: Sheet) -> None:
        """Ask everything on a connection of its own. Raises what the store raises."""
        from trainyard.store import open_store

        with open_store(self.settings.results_url) as store:
            self._ended(store, sheet)
            self._nightly(store, sheet)
            self._benchmarks(store, sheet)

    def _ended(self, store: Store, sheet: Sheet) -> None:
        counts: dict[tuple[str, str, str], int] = defaultdict(int)
        last: dict[tuple[str, str], str] = {}
        for row in store.query("runs_by_end"):
            site, status = row["site"], row["status"]
            failed = status == "failed"
            reason = classify(row["reason"], row["exit_code"]) if failed else ""
            counts[site, status, reason] += row["run_count"]
            last[site, status] = max(last.get((site, status), ""), row["last_ended_at"] or "")
        # Zeros that are known: an increase from nothing is otherwise invisible to Prometheus.
        for site in {site for site, _, _ in counts}:
            for status in ("completed", "cancelled", "lost"):
                counts[site, status, ""] += 0
            for reason in REASONS:
                counts[site, "failed", reason] += 0
        for (site, status, reason), count in counts.items():
            if status != "running":
                sheet.put("trainyard_runs_ended_total", count, site, status, reason)
        for (site, status), at in last.items():
            sheet.put("trainyard_run_last_ended_timestamp_seconds", seconds(at), site, status)

    def _nightly(self, store: Store, sheet: Sheet) -> None:
        sheet.put("trainyard_nightly_expected", float(bool(self.settings.nightly_schedule)))
        for row in store.query("nightly_last", dag_id=NIGHTLY):
            site = row["site"]
            ended = seconds(row["ended_at"]) or seconds(row["created_at"])
            sheet.put("trainyard_nightly_last_ended_timestamp_seconds", ended, site)
            counts = {name: row[f"{name}_runs"] for name in ("stored", "completed", "comparable")}
            counts["planned"] = _planned(row["plan"]) or counts["stored"]
            for state, count in counts.items():
                sheet.put("trainyard_nightly_last_runs", count, site, state)
            good = row["status"] == "completed" and counts["completed"] >= counts["planned"]
            sheet.put("trainyard_nightly_last_success", float(good), site)
            what = (row["study_id"], row["git_commit"] or "", row["torch"] or "")
            sheet.put("trainyard_nightly_last_info", 1, site, *what)

    def _benchmarks(self, store: Store, sheet: Sheet) -> None:
        from trainyard.analysis.regression import Better

        now = datetime.fromtimestamp(self.clock(), UTC)
        since = (now - timedelta(days=HISTORY_DAYS)).isoformat(timespec="microseconds")
        for metric, better in METRICS.items():
            rows = store.query("benchmark_values", metric=metric, since=since)
            for key, group in _configurations(rows):
                _show(sheet, (*key, metric), group, Better(better))


def _configurations(rows: Iterable[Row]) -> list[tuple[tuple[str, str, str, str], list[Row]]]:
    """Return rows by (suite, site, label, ranks): the configurations measured last come first.

    Two configurations may share a name when a study's parameters changed; the id tells them apart.
    """
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["suite"], row["site"], row["config_id"]].append(row)
    newest = sorted(groups.values(), key=lambda group: group[-1]["created_at"], reverse=True)
    return [
        (
            (
                group[-1]["suite"],
                group[-1]["site"],
                f"{group[-1]['name']}-{group[-1]['config_id'][:6]}",
                str(group[-1]["ranks"]),
            ),
            group,
        )
        for group in newest[:_MOST_CONFIGURATIONS]
    ]


def _show(sheet: Sheet, labels: tuple[str, ...], rows: list[Row], better: Better) -> None:
    """Put the last figures of one configuration, and what its nights say, on *sheet*."""
    from trainyard.analysis.regression import State, judge
    from trainyard.analysis.statistics import estimate

    newest = rows[-1]["study_id"]
    last = estimate([row["value"] for row in rows if row["study_id"] == newest])
    verdict = judge(nights(rows), better)
    found = {
        "median": last.value if last else None,
        "low": last.low if last else None,
        "high": last.high if last else None,
        "runs": last.n if last else None,
        "timestamp_seconds": seconds(rows[-1]["created_at"]),
        "reference_low": verdict.low,
        "reference_high": verdict.high,
        "change_ratio": verdict.change,
    }
    for name, value in found.items():
        sheet.put(f"trainyard_benchmark_{name}", value, *labels)
    for state in State:
        sheet.put("trainyard_regression", float(verdict.state is state), *labels, state.value)


def nights(rows: Iterable[Row]) -> list[Night]:
    """Return the rows of one configuration as nights; a machine is its host, CPU and GPU."""
    from trainyard.analysis.regression import Night

    studies: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        machine = "/".join((row["hostname"], row["cpu_model"], row["gpu_name"]))
        studies[row["created_at"], row["study_id"], machine].append(row["value"])
    return [
        Night(at=at, machine=machine, values=tuple(values))
        for (at, _, machine), values in studies.items()
    ]


def seconds(moment: str | None) -> float | None:
    """Return a stored moment as seconds since 1970, None for none."""
    return datetime.fromisoformat(moment).timestamp() if moment else None


def _planned(plan: str) -> int:
    import json

    found = json.loads(plan or "[]")
    return len(found) if isinstance(found, list) else 0
