"""Claims: which Airflow try waits for which run, so that no run goes on that nobody waits for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from trainer.contract import dumps
from trainyard.backends import folder
from trainyard.backends.identity import Claim
from trainyard.paths import RunPaths


def take(paths: RunPaths, claim: Claim) -> bool:
    """Make *claim* the run's only one; return whether the run may go on.

    It may not once somebody asked for its end. A trigger of an earlier try that is told to kill
    finds the run claimed by a later one: clearing a task may start the next try before the kill
    arrives.
    """
    paths.claim.parent.mkdir(parents=True, exist_ok=True)
    with folder.locked(paths):
        folder.write_once(paths.claim, dumps(claim))
        return folder.cancelled(paths) is None


def drop(paths: RunPaths) -> None:
    """Forget the claim: the run is recorded, and nobody waits for it any more."""
    with contextlib.suppress(FileNotFoundError):
        paths.claim.unlink()


def every(root: Path) -> Iterator[tuple[RunPaths, Claim]]:
    """Yield each claimed run below *root*, oldest name first."""
    place = root / ".claims"
    names = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    for name in names:
        paths = RunPaths(root=root, run_id=name)
        claim = folder.claim_of(paths)
        if claim is not None:
            yield paths, claim
