"""Which Slurm job a run has now, from its run folder alone: journal, verdict, attempts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.contract import ContractError, dumps, loads
from trainyard.backends.base import JobUsage
from trainyard.files import write_atomically
from trainyard.paths import RunPaths
from trainyard.slurm.evidence import Target
from trainyard.slurm.identity import JobKey, generation_of
from trainyard.slurm.journal import Attempt, JournalFile
from trainyard.slurm.verdict import Verdict


@dataclass(kw_only=True, slots=True, frozen=True)
class KeptVerdict:
    """A final verdict on disk."""

    name: str
    """Job name: the key it is about."""
    verdict: Verdict
    """How the job ended."""


@dataclass(kw_only=True, slots=True, frozen=True)
class RunJob:
    """The newest submission of one run."""

    key: JobKey
    """What it is found by."""
    attempt: Attempt | None = None
    """What the journal says of it; None: nothing was ever submitted."""
    first_at: float = 0.0
    """Our time of the run's first submission."""
    verdict: Verdict | None = None
    """How it ended, once that is known."""

    @property
    def submitted(self) -> bool:
        """Whether its job id is known."""
        return self.attempt is not None and self.attempt.job_id is not None


def job_of(paths: RunPaths, namespace: str) -> RunJob:
    """Return the newest submission of the run in *paths*.

    Refused and unsent attempts made no job and do not count. Raises ``SlurmError`` for a damaged
    journal.
    """
    journal = JournalFile(paths.journal).read()
    made: dict[int, Attempt] = {}
    for attempt in journal.attempts:
        found = journal.settled(attempt.key) or journal.doubtful(attempt.key)
        if found is not None:
            made[generation_of(attempt.key)] = found
    if not made:
        return RunJob(key=JobKey(namespace=namespace, run_id=paths.run_id))
    newest = max(made)
    kept = _verdict(paths.verdict)
    key = JobKey(namespace=namespace, run_id=paths.run_id, generation=newest)
    about_it = kept is not None and kept.name == made[newest].key
    return RunJob(
        key=key,
        attempt=made[newest],
        first_at=journal.attempts[0].at,
        verdict=kept.verdict if kept and about_it else None,
    )


def target_of(job: RunJob, paths: RunPaths, cluster: str) -> Target:
    """Return what to watch or cancel; without a job id it can only be cancelled, by name."""
    attempt = job.attempt
    return Target(
        cluster=cluster,
        job_id=(attempt.job_id or 0) if attempt else 0,
        name=attempt.key if attempt else job.key.name,
        submitted=attempt.submitted if attempt else 0,
        run_dir=str(paths.run_dir),
    )


def keep_verdict(paths: RunPaths, name: str, verdict: Verdict) -> None:
    """Write a final *verdict* on the job called *name*: whoever looks later asks nobody."""
    write_atomically(paths.verdict, dumps(KeptVerdict(name=name, verdict=verdict)) + "\n")


def _verdict(path: Path) -> KeptVerdict | None:
    try:
        return loads(KeptVerdict, path.read_text(), str(path))
    except (FileNotFoundError, ContractError):  # one that cannot be read is asked for again
        return None


def signal_noted(paths: RunPaths, job_id: int) -> int | None:
    """Return the signal by which the last attempt of job *job_id* was told to end, if it was."""
    notes = [note for note in _notes(paths) if note["job_id"] == job_id]
    number = notes[-1].get("signal") if notes else None
    return number if isinstance(number, int) else None


def usage_by_wrapper(paths: RunPaths) -> tuple[JobUsage, ...]:
    """Return what the wrapper noted of every attempt, oldest first: times and nodes, no more."""
    return tuple(
        JobUsage(
            cluster=str(note.get("cluster") or ""),
            job_id=note["job_id"],
            attempt=place,
            state=_state(note),
            node_list=str(note.get("nodes") or ""),
            source="wrapper",
            elapsed_s=_elapsed(note),
        )
        for place, note in enumerate(_notes(paths))
    )


def _notes(paths: RunPaths) -> list[dict[str, Any]]:
    notes = [note for path in paths.attempts.glob("*.json") if (note := _note(path))]
    return sorted(notes, key=lambda note: (str(note.get("started_at")), note["job_id"]))


def _note(path: Path) -> dict[str, Any] | None:
    if path.name.endswith(".result-before.json"):
        return None
    try:
        note = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    known = isinstance(note, dict) and isinstance(note.get("job_id"), int)
    return note if known else None


def _state(note: dict[str, Any]) -> str:
    code = note.get("exit_code")
    return "ended without a word" if code is None else f"exit code {code}"


def _elapsed(note: dict[str, Any]) -> float | None:
    try:
        began, ended = (datetime.fromisoformat(note[name]) for name in ("started_at", "ended_at"))
    except (KeyError, TypeError, ValueError):
        return None
    return max(0.0, (ended - began).total_seconds())
