"""Files in run folders, as the watcher reads them: exit codes and its own notes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from trainer.contract import ContractError, dumps, loads
from trainyard.files import write_atomically
from trainyard.paths import RunPaths
from trainyard.slurm.breadcrumbs import ExitFile, read_exit_file
from trainyard.slurm.evidence import Evidence, Target

LOG = logging.getLogger(__name__)


class RunFiles(Protocol):
    """Reads and writes what stands in run folders; called off the event loop."""

    def exit_file(self, target: Target) -> ExitFile | None:
        """Return the exit code in the target's run folder, or None."""
        ...

    def load(self, target: Target) -> Evidence | None:
        """Return what an earlier watcher had seen, or None."""
        ...

    def save(self, evidence: Evidence) -> None:
        """Keep *evidence* for the next watcher; losing it costs time, never a verdict."""
        ...


class SharedRunFiles:
    """Run folders on a file system that this host shares with the nodes."""

    def exit_file(self, target: Target) -> ExitFile | None:
        """Return the exit code in the target's run folder, or None."""
        if not target.run_dir:
            return None
        paths = _paths(target)
        return read_exit_file(paths.exit_code, paths.job)

    def load(self, target: Target) -> Evidence | None:
        """Return what an earlier watcher had seen of this very target, or None."""
        if not target.run_dir:
            return None
        path = _paths(target).watch
        try:
            evidence = loads(Evidence, path.read_text(), str(path))
        except FileNotFoundError:
            return None
        except (OSError, ContractError) as error:
            LOG.warning("starting to watch %s anew: %s", target.label, error)
            return None
        known = evidence.target
        same = (known.cluster, known.job_id, known.name, known.task)
        wanted = (target.cluster, target.job_id, target.name, target.task)
        return evidence if same == wanted else None

    def save(self, evidence: Evidence) -> None:
        """Keep *evidence* in the run folder; a full disk is logged and endured."""
        if not evidence.target.run_dir:
            return
        try:
            write_atomically(_paths(evidence.target).watch, dumps(evidence, indent=None) + "\n")
        except OSError as error:
            LOG.warning("cannot keep what was seen of %s: %s", evidence.target.label, error)


def _paths(target: Target) -> RunPaths:
    folder = Path(target.run_dir)
    return RunPaths(root=folder.parent, run_id=folder.name)
