"""The part of a verification that probes: run, judge, compare, store, leave bad nodes out."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from trainer.contract import Measurement, ProbeReport
from trainyard.backends import Backend
from trainyard.errors import TrainyardError
from trainyard.probing.fingerprint import diff, fingerprint
from trainyard.probing.judge import Judged, Judgement, defects, judge
from trainyard.probing.peers import Outlier, disagreeing
from trainyard.probing.references import References, parse_references
from trainyard.probing.running import Probed, probe_site
from trainyard.probing.services import measure_services, median_of
from trainyard.settings import Settings
from trainyard.sites import Site
from trainyard.store import EnvironmentCheck, Verdict, open_store
from trainyard.store.probes import ProbeRow, recent_probes, save_probes

_BESIDE_PLUGINS = Path(__file__).resolve().parents[3] / "references"
_SHOWN = 6


class Thoroughness(StrEnum):
    """How much of a verification the probes are."""

    NONE = "none"
    QUICK = "quick"
    FULL = "full"


@dataclass(kw_only=True, slots=True, frozen=True)
class Examination:
    """What the probes of a site mean."""

    checks: tuple[EnvironmentCheck, ...]
    """For the table of the verification."""
    rows: tuple[ProbeRow, ...] = ()
    """As they were stored."""
    bad_nodes: tuple[str, ...] = ()
    """Nodes with defects."""


def references_file(settings: Settings, site: str) -> Path:
    """Return where the references of *site* are: ``references_dir``, else the repository's."""
    folder = Path(settings.references_dir) if settings.references_dir else _BESIDE_PLUGINS
    return folder / f"{site}.toml"


def read_references(settings: Settings, site: str) -> References:
    """Return the references of *site*, none where there is no file.

    Raises ``ConfigurationError`` for a file that is wrong.
    """
    path = references_file(settings, site)
    try:
        text = path.read_text()
    except FileNotFoundError:
        return References(site=site)
    return parse_references(text, str(path))


def examine(
    settings: Settings,
    site: Site,
    backend: Backend,
    *,
    thoroughness: Thoroughness = Thoroughness.QUICK,
    nodes: int = 1,
    dag_run_id: str = "",
    checked_at: str = "",
) -> Examination:
    """Probe *nodes* nodes of *site* and return what that means; everything is stored.

    What goes wrong with the probes is itself a failed check.
    """
    moment = checked_at or dt.datetime.now(dt.UTC).isoformat()
    told = _Teller(site=site.name, moment=moment, dag_run_id=dag_run_id)
    try:
        references = read_references(settings, site.name)
        reports = _reports(settings, site, backend, thoroughness, nodes)
        today = dt.datetime.now(dt.UTC).date()
        judged = [judge(report, references, today) for report in reports]
    except (TrainyardError, OSError) as error:
        failed = told(
            "probes", Verdict.FAILED, type(error).__name__, "a report per node", str(error)
        )
        return Examination(checks=(failed,))
    outliers = disagreeing(reports)
    rows = tuple(
        _row(site, report, one, outliers, dag_run_id)
        for report, one in zip(reports, judged, strict=True)
    )
    earlier = _kept(settings, rows, site.name)
    checks = (
        told("probes", *_of_problems(reports)),
        told("micro-benchmarks", *_of_numbers([one for node in judged for one in node])),
        told("nodes agree", *_of_peers(reports, outliers)),
        told("same as before", *_of_before(rows, earlier)),
    )
    bad = tuple(row.report.node for row in rows if row.verdict is Verdict.FAILED)
    return Examination(checks=checks, rows=rows, bad_nodes=bad)


def _reports(
    settings: Settings, site: Site, backend: Backend, thoroughness: Thoroughness, nodes: int
) -> list[ProbeReport]:
    """Return a report per node, the first one with what was timed from this side."""
    probed = probe_site(
        site,
        backend,
        name=f"probes-{time.time_ns():x}",
        quick=thoroughness is Thoroughness.QUICK,
        nodes=nodes,
    )
    made, problems = measure_services(settings)
    first, *others = probed.reports
    whole = replace(
        first,
        measurements=(*first.measurements, _start(site, probed), *made),
        problems=(*first.problems, *problems),
    )
    return [whole, *others]


@dataclass(kw_only=True, slots=True, frozen=True)
class _Teller:
    """Makes the checks of one verification."""

    site: str
    moment: str
    dag_run_id: str

    def __call__(
        self, name: str, verdict: Verdict, measured: str, needed: str, fix: str = ""
    ) -> EnvironmentCheck:
        return EnvironmentCheck(
            site=self.site,
            checked_at=self.moment,
            name=name,
            measured=measured,
            requirement=needed,
            verdict=verdict,
            detail=fix,
            dag_run_id=self.dag_run_id,
        )


def _kept(settings: Settings, rows: Sequence[ProbeRow], site: str) -> dict[str, ProbeRow]:
    """Store *rows* and return the newest earlier one of each node."""
    with open_store(settings.results_url) as store:
        earlier = {row.report.node: row for row in reversed(recent_probes(store, site))}
        save_probes(store, rows)
    return earlier


def _start(site: Site, probed: Probed) -> Measurement:
    """Return what starting and ending cost there."""
    what = {"docker": "a container", "slurm": "a job"}.get(site.launcher.value, "a process")
    return median_of(
        "container.start_to_end" if site.docker or site.apptainer else "launch.start_to_end",
        [probed.around_s],
        "s",
        # A queue is no property of the machine.
        f"{what} may have waited in a queue" if site.slurm else "",
    )


def _row(
    site: Site,
    report: ProbeReport,
    judged: Sequence[Judged],
    outliers: Sequence[Outlier],
    dag_run_id: str,
) -> ProbeRow:
    lines = [*defects(judged), *_wrong(report)]
    lines += [f"{o.node}: {o.name} {o.what}" for o in outliers if o.node == report.node]
    verdict = Verdict.FAILED if lines else Verdict.PASSED
    if not lines and report.problems:
        verdict = Verdict.WARNING
    return ProbeRow(
        site=site.name,
        report=report,
        fingerprint=fingerprint(report),
        verdict=verdict,
        defects=tuple(lines),
        dag_run_id=dag_run_id,
    )


def _wrong(report: ProbeReport) -> list[str]:
    """Return operators that compute something else than they should."""
    return [
        f"{report.node}: {fact.name} computes wrong numbers; do not measure on this node"
        for fact in report.facts
        if fact.name.startswith("operator.") and fact.value == "wrong"
    ]


_Told = tuple[Verdict, str, str, str]


def _of_problems(reports: Sequence[ProbeReport]) -> _Told:
    lines = [f"{r.node}: {p.probe}: {p.what}; {p.fix}" for r in reports for p in r.problems]
    wrong = [line for report in reports for line in _wrong(report)]
    seconds = max(report.seconds for report in reports)
    verdict = Verdict.FAILED if wrong else Verdict.WARNING if lines else Verdict.PASSED
    measured = f"{len(reports)} nodes in {seconds:.0f} s, {len(lines)} problems"
    return verdict, measured, "a report per node without problems", _joined([*wrong, *lines])


def _of_numbers(judged: Sequence[Judged]) -> _Told:
    counts = {kind: sum(one.verdict is kind for one in judged) for kind in Judgement}
    measured = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    lines = defects(judged)
    if lines:
        return Verdict.FAILED, measured, "no measurement beyond its reference", _joined(lines)
    if counts[Judgement.INVALID]:
        invalid = [
            f"{one.node}: {one.measurement.name}: {one.why}"
            for one in judged
            if one.verdict is Judgement.INVALID
        ]
        return Verdict.WARNING, measured, "quiet nodes: these do not count", _joined(invalid)
    return Verdict.PASSED, measured, "no measurement beyond its reference", ""


def _of_peers(reports: Sequence[ProbeReport], outliers: Sequence[Outlier]) -> _Told:
    needed = "every node like the others"
    if len(reports) == 1:
        return Verdict.SKIPPED, "1 node", needed, ""
    lines = [f"{one.node}: {one.name} {one.what}" for one in outliers]
    verdict = Verdict.FAILED if lines else Verdict.PASSED
    return verdict, f"{len(reports)} nodes, {len(lines)} differences", needed, _joined(lines)


def _of_before(rows: Sequence[ProbeRow], earlier: dict[str, ProbeRow]) -> _Told:
    changes = [
        f"{row.report.node}: {change}"
        for row in rows
        if (known := earlier.get(row.report.node)) and known.fingerprint != row.fingerprint
        for change in diff(known.report, row.report)
        if change.kind == "fact"
    ]
    prints = ", ".join(sorted({row.fingerprint for row in rows}))
    verdict = Verdict.WARNING if changes else Verdict.PASSED
    return verdict, f"fingerprint {prints}", "the environment of the last time", _joined(changes)


def _joined(lines: Sequence[str]) -> str:
    more = f" … and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return " | ".join(line.rstrip("; ") for line in lines[:_SHOWN]) + more
