"""A plan's profiles: analysed, reported, stored, recorded. Can be repeated. Free of Airflow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from trainyard.errors import UnavailableError
from trainyard.files import sha256_of
from trainyard.profiling.collect import Profiled, profile_of
from trainyard.profiling.rows import interval_of, row_of
from trainyard.profiling.sections import overhead_section, tried_section, tried_sentence

if TYPE_CHECKING:
    from trainyard.analysis.statistics import Estimate
    from trainyard.objectstore import ObjectStore
    from trainyard.profile.report import ProfileFiles
    from trainyard.settings import Settings
    from trainyard.store.profiles import FileRow, ProfileRow
    from trainyard.study import StudyFile

PREFIX = "reports/profiles"
"""Where reports on profiles are in the object store: they are kept, raw traces age out."""


@dataclass(kw_only=True, slots=True, frozen=True)
class PublishedProfile:
    """Where the report on a plan's profiles is."""

    profiled: Profiled
    """What was found."""
    row: ProfileRow
    """As it is stored."""
    files: ProfileFiles
    """On disk."""
    url: str
    """Address a browser opens, valid for a week."""
    timeline_url: str
    """The same of the zoomable timeline."""
    trace_url: str
    """The same of the trace for Perfetto."""
    mlflow_url: str
    """The profiled run in the tracking server."""


@dataclass(kw_only=True, slots=True, frozen=True)
class PublishedTry:
    """What a change did, before and after."""

    sentence: str
    """The outcome."""
    speedup: Estimate | None
    """Throughput after over before, of runs without profiler."""
    after: PublishedProfile
    """The profile with the change."""
    files: ProfileFiles
    """The comparison on disk."""
    url: str
    """The comparison in a browser."""


def publish_profile(settings: Settings, study: StudyFile) -> PublishedProfile:
    """Analyse the profiles of *study* and put the report where people find it.

    Its runs are recorded before. Raises ``ProfileError`` when there is nothing to analyse, and
    ``UnavailableError`` when a service does not answer.
    """
    from trainyard.profile.report import build
    from trainyard.store import open_store

    with open_store(settings.results_url) as store:
        found = profile_of(study, store)
    run_id, profiler = found.member.row.run_id, found.member.row.spec.profiler
    folder = Path(settings.reports_dir) / "profiles" / run_id
    more = (overhead_section(found.overhead, profiler),)
    files = build(found.analysis, folder, title=study.title, more=more)
    row = row_of(study, found, report_path=str(files.html))
    return _stored(settings, found, row, files)


def publish_try(settings: Settings, before: StudyFile, after: StudyFile) -> PublishedTry:
    """Analyse the profiles of *after*, the plan with one field changed, and compare with *before*.

    Raises as ``publish_profile``; also when *before* has no stored profile or the two cannot be
    compared.
    """
    from trainyard.analysis.statistics import ratio
    from trainyard.profile.compare import compare
    from trainyard.profile.report import build_comparison
    from trainyard.store import open_store

    with open_store(settings.results_url) as store:
        old = profile_of(before, store)
    first = publish_profile(settings, after)
    new = first.profiled
    change = _change(old)
    speedup = ratio(new.rates, old.rates)
    sentence = tried_sentence(change, speedup)
    run_id = new.member.row.run_id
    files = build_comparison(
        compare(old.analysis, new.analysis),
        old.analysis,
        new.analysis,
        Path(settings.reports_dir) / "profiles" / f"{run_id}.compared",
        title=f"Before and after: {change}",
        more=(tried_section(change, list(old.rates), list(new.rates), speedup),),
        first=(sentence,),
    )
    row = replace(
        first.row,
        before_run_id=old.member.row.run_id,
        speedup=interval_of(speedup),
        analysed_at=datetime.now(UTC).isoformat(),
    )
    url = _send(settings, files)[files.html.name]
    _save(settings, row)
    new_one = replace(first, row=row)
    return PublishedTry(sentence=sentence, speedup=speedup, after=new_one, files=files, url=url)


def _change(found: Profiled) -> str:
    """Return what was tried because of *found*: its first suggestion with a field."""
    asked = found.analysis.verdict.suggestions
    return next((f"{item.field} = {item.proposed}" for item in asked if item.field), "the change")


def _stored(
    settings: Settings, found: Profiled, row: ProfileRow, files: ProfileFiles
) -> PublishedProfile:
    """Send the report, save the row, and tell the tracking server."""
    from trainyard.lineage.profiles import record_profile
    from trainyard.objectstore import ObjectStore

    urls = _send(settings, files)
    objects = ObjectStore(settings)
    uri = objects.uri(_key(files, files.html))
    row = replace(row, report_uri=uri, files=_file_rows(objects, found, files))
    _save(settings, row)
    run = found.member.row
    if run.mlflow_run_id:
        record_profile(settings, run.mlflow_run_id, row, [files.html, files.pdf, files.json])
    return PublishedProfile(
        profiled=found,
        row=row,
        files=files,
        url=urls[files.html.name],
        timeline_url=urls["timeline.html"],
        trace_url=urls["trace.json.gz"],
        mlflow_url=run.mlflow_url,
    )


def _save(settings: Settings, row: ProfileRow) -> None:
    from trainyard.store import open_store
    from trainyard.store.profiles import save_profile

    with open_store(settings.results_url) as store:
        save_profile(store, row)


def _send(settings: Settings, files: ProfileFiles) -> dict[str, str]:
    """Put the report's folder into the object store; return the addresses of its pages by name."""
    from trainyard.objectstore import ObjectStore

    objects = ObjectStore(settings)
    objects.put_artifacts(files.folder.name, files.folder, prefix=PREFIX)
    pages = [path for path in (files.html, files.timeline, files.trace) if path is not None]
    week = timedelta(days=7)
    return {path.name: objects.presigned(_key(files, path), valid=week) for path in pages}


def _key(files: ProfileFiles, path: Path) -> str:
    return f"{PREFIX}/{files.folder.name}/{path.relative_to(files.folder).as_posix()}"


def _file_rows(objects: ObjectStore, found: Profiled, files: ProfileFiles) -> tuple[FileRow, ...]:
    """Return raw traces and report with digests.

    Raises ``UnavailableError`` when a trace is not in the store: its run's task sends it again.
    """
    from trainyard.profiling.traces import trace_files
    from trainyard.store.profiles import FileRow
    from trainyard.streaming.ledger import PROFILES, key_of

    made = []
    members = [*found.traces, *([found.counted] if found.counted else [])]
    wanted = [
        (path, key_of(member.row.run_id, f"{PROFILES}/{path.name}"))
        for member in members
        for path in trace_files(member.paths, member.row.spec)
    ]
    report = sorted(path for path in files.folder.rglob("*") if path.is_file())
    wanted += [(path, _key(files, path)) for path in report]
    for path, key in wanted:
        if not objects.exists(key):
            raise UnavailableError(
                f"{path} is not in the object store as {key}: clear the task of its run to send it"
            )
        made.append(
            FileRow(
                name=path.name,
                uri=objects.uri(key),
                size_bytes=path.stat().st_size,
                sha256=sha256_of(path),
            )
        )
    return tuple(made)
