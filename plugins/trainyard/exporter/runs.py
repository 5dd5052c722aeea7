"""The runs that go on, from their folders alone: it also works while every service is down."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.contract import ContractError, RunSpec, loads
from trainyard.backends import folder
from trainyard.errors import TrainyardError, UnavailableError
from trainyard.exporter.catalogue import Sheet
from trainyard.exporter.live import LiveRun
from trainyard.paths import RunPaths
from trainyard.sites import Site
from trainyard.study import StudyFile, read_study

_NOT_HERE = "its runs_dir is not on this host: not mounted, or nothing has run yet"


@dataclass(kw_only=True, slots=True, frozen=True)
class Limits:
    """What bounds the number of series."""

    most: int = 100
    """Runs with series of their own; the ones with the newest sign of life are taken."""
    keep_s: float = 900.0
    """Seconds for which an ended run stays visible."""
    silent_s: float = 6 * 3600.0
    """Seconds without a sign of life after which a run that nobody waits for is abandoned."""


class LiveRuns:
    """Watches the run folders of all sites; reads of each file only what is new."""

    name = "runs"

    def __init__(
        self,
        sites: Iterable[Site],
        limits: Limits | None = None,
        *,
        interval_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Watch the ``runs_dir`` of *sites*."""
        self.interval_s = interval_s
        self._limits = limits or Limits()
        self._clock = clock
        self._roots: dict[Path, list[Site]] = {}
        for site in sites:
            self._roots.setdefault(Path(site.runs_dir), []).append(site)
        self._runs: dict[str, LiveRun] = {}
        self._over: dict[str, int] = {}
        self._skipped = 0

    def read(self, sheet: Sheet) -> None:
        """Look at every folder once. Raises ``UnavailableError`` when a site's cannot be listed."""
        folders = 0
        seen: set[str] = set()
        present: list[Site] = []
        for root, sites in self._roots.items():
            if not root.exists():
                for site in sites:
                    sheet.put("trainyard_source_left_out", 1, f"runs:{site.name}", _NOT_HERE)
                continue
            present += sites
            for path, changed in _folders(root):
                folders += 1
                seen.add(path)
                if self._over.get(path) != changed:
                    self._look(RunPaths(root=root, run_id=Path(path).name), path, changed)
        for path in [path for path in self._runs if path not in seen]:
            self._forget(path)
        self._over = {path: changed for path, changed in self._over.items() if path in seen}
        for path, run in list(self._runs.items()):
            run.follow()
            if self._is_past(run):
                self._forget(path)
        sheet.put("trainyard_run_folders", folders)
        self._count(sheet, present)
        self._show(sheet)

    def _look(self, paths: RunPaths, path: str, changed: int) -> None:
        """Note whether the run in *path* goes on; one that is over is not looked at again."""
        ended_at = _ended_at(paths)
        run = self._runs.get(path)
        if ended_at is not None:
            self._over[path] = changed
            if run is None and self._clock() - ended_at > self._limits.keep_s:
                return
        else:
            self._over.pop(path, None)
        if run is None:
            run = self._begin(paths)
        if run is not None:
            run.ended_at = ended_at
            self._runs[path] = run

    def _begin(self, paths: RunPaths) -> LiveRun | None:
        """Return the run whose folder is new, or None while its spec is not readable."""
        try:
            spec = loads(RunSpec, paths.spec.read_text(), str(paths.spec))
            started_at = paths.spec.stat().st_mtime
        except (OSError, UnicodeDecodeError, ContractError):
            return None
        study = self._study(paths)
        sites = self._roots[paths.root]
        site = study.site if study else sites[0] if len(sites) == 1 else None
        return LiveRun(
            paths=paths,
            spec=spec,
            site=site.name if site else "",
            launcher=site.launcher.value if site else "",
            study=study.study_id if study else "",
            started_at=started_at,
            longest_s=site.longest_s if site else None,
        )

    def _study(self, paths: RunPaths) -> StudyFile | None:
        """Return the study of a run that a task waits for, else None."""
        claim = folder.claim_of(paths)
        try:
            return _plan(Path(claim.plan)) if claim else None
        except TrainyardError:
            return None

    def _is_past(self, run: LiveRun) -> bool:
        now = self._clock()
        if run.ended_at is not None:
            return now - run.ended_at > self._limits.keep_s
        silent = now - run.active_at > self._limits.silent_s
        return silent and folder.claim_of(run.paths) is None

    def _forget(self, path: str) -> None:
        self._skipped += self._runs.pop(path).progress.skipped
        with contextlib.suppress(OSError):  # its folder may be what is gone
            self._over.setdefault(path, Path(path).stat().st_mtime_ns)

    def _show(self, sheet: Sheet) -> None:
        order = sorted(
            self._runs.values(), key=lambda run: (run.ended_at is None, run.active_at), reverse=True
        )
        for run in order[: self._limits.most]:
            run.show(sheet)
        sheet.put("trainyard_runs_unlabelled", max(0, len(order) - self._limits.most))
        skipped = self._skipped + sum(run.progress.skipped for run in self._runs.values())
        sheet.put("trainyard_run_lines_skipped_total", skipped)

    def _count(self, sheet: Sheet, sites: Iterable[Site]) -> None:
        active: dict[str, list[LiveRun]] = {site.name: [] for site in sites}
        for run in self._runs.values():
            if run.ended_at is None:
                active.setdefault(run.site, []).append(run)
        for name, runs in active.items():
            waits = [self._clock() - run.started_at for run in runs if run.progress.seen_at is None]
            sheet.put("trainyard_runs_active", len(runs), name)
            sheet.put("trainyard_runs_waiting", len(waits), name)
            sheet.put("trainyard_runs_longest_wait_seconds", max([0.0, *waits]), name)


def _folders(root: Path) -> Iterator[tuple[str, int]]:
    """Yield each run folder below *root* with its time of change; those that vanish are no error.

    Text, not ``Path``: comparing ten thousand of those takes a quarter of a second.

    Raises ``UnavailableError`` when the root cannot be listed.
    """
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    if entry.is_dir():
                        yield entry.path, entry.stat().st_mtime_ns
                except FileNotFoundError:
                    continue
    except OSError as error:
        raise UnavailableError(
            f"run folders {root}: {error.strerror}; the exporter must mount every site's runs_dir "
            "readably"
        ) from error


def _ended_at(paths: RunPaths) -> float | None:
    """Return when the run ended: the newest of the marks that its end leaves; None without one."""
    marks = []
    for path in (paths.exit_code, paths.recorded, paths.result):
        try:
            marks.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(marks, default=None)


@functools.lru_cache(maxsize=64)
def _plan(path: Path) -> StudyFile:
    return read_study(path)
