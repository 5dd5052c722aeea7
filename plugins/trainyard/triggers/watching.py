"""``JobWatch``: what a trigger needs of one run's job; made and used in threads. No Airflow."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from trainyard.backends.slurm import SlurmBackend
from trainyard.errors import UnavailableError
from trainyard.files import write_atomically
from trainyard.paths import RunPaths
from trainyard.runlog import Follower, describe
from trainyard.sites import Site
from trainyard.slurm.access import Access
from trainyard.slurm.evidence import Target
from trainyard.slurm.runjob import target_of

LOG = logging.getLogger(__name__)
MOST_LINES = 20
"""Lines relayed to the task's log at one look; the rest stands in the run's own files."""


class JobWatch:
    """One run's newest job, and what it has said since somebody last looked.

    How far the logs were relayed stands in the run folder: another triggerer goes on from there.
    """

    def __init__(self, site: Site, paths: RunPaths, access: Access) -> None:
        """Read the run folder. Raises ``UnavailableError`` while the run has no job."""
        backend = SlurmBackend(site, access)
        job = backend.job(paths)
        if job.attempt is None:
            raise UnavailableError(
                f"run {paths.run_id} has no job: {paths.journal} names none; clear its task to "
                "submit it again"
            )
        self.paths = paths
        self.notes: Path = backend.notes
        self.target: Target = target_of(job, paths, site.slurm.cluster if site.slurm else "")
        kept = self._offsets()
        self._followers = {
            name: Follower(path=path, offset=kept.get(name, 0))
            for name, path in (("metrics", paths.metrics), ("stderr", paths.stderr))
        }

    def said(self) -> list[str]:
        """Return what the run has written since the last look, a bounded part of it."""
        before = self._now_at()
        metrics = self._followers["metrics"].lines()
        said = [text for line in metrics if (text := describe(line))]
        said += self._followers["stderr"].lines()
        if self._now_at() != before:
            self._keep()
        if len(said) > MOST_LINES:
            left = len(said) - MOST_LINES
            said = [*said[:MOST_LINES], f"… {left} more lines in {self.paths.run_dir}"]
        return said

    def _now_at(self) -> dict[str, int]:
        return {name: follower.offset for name, follower in self._followers.items()}

    def _offsets(self) -> dict[str, int]:
        try:
            kept = json.loads(self.paths.relayed.read_text())
        except (OSError, ValueError):
            return {}
        known = isinstance(kept, dict)
        return {n: o for n, o in kept.items() if isinstance(o, int) and o >= 0} if known else {}

    def _keep(self) -> None:
        try:
            write_atomically(self.paths.relayed, json.dumps(self._now_at()) + "\n")
        except OSError as error:  # a restarted triggerer repeats some lines, no more
            LOG.warning("cannot keep how far %s was relayed: %s", self.paths.run_id, error)
