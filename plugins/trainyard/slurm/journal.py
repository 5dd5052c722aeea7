"""What was intended and what became of it, on disk before it is done: the submission journal.

One JSON file in the run folder, replaced whole and flushed to disk at each step. A process may be
killed between any two steps: the next one reads here what may have happened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from trainer.contract import ContractError, dumps, loads
from trainyard.files import fsync_path, write_atomically
from trainyard.slurm.errors import SlurmError


class Step(StrEnum):
    """What became of one attempt to submit."""

    INTENT = "intent"
    """sbatch is about to be run: from here on there may be a job."""
    ACCEPTED = "accepted"
    """sbatch gave a job id."""
    ADOPTED = "adopted"
    """A job with the key was found."""
    REFUSED = "refused"
    """Slurm said no: there is no job."""
    UNSENT = "unsent"
    """The request did not reach Slurm, or no job became visible in time: there is no job."""
    UNKNOWN = "unknown"
    """Nobody can say yet."""


_SETTLED = frozenset({Step.ACCEPTED, Step.ADOPTED})
_DOUBTFUL = frozenset({Step.INTENT, Step.UNKNOWN})


@dataclass(kw_only=True, slots=True, frozen=True)
class Attempt:
    """One attempt to submit a key."""

    key: str
    """Job name."""
    step: Step
    """How far it got."""
    at: float
    """Our time of the intent, or of the adoption where nothing was intended."""
    job_id: int | None = None
    """The job, once there is one."""
    submitted: int = 0
    """Its submit time on the controller's clock; 0 until seen."""
    detail: str = ""
    """What Slurm said, or where the job was found."""
    duplicates: tuple[int, ...] = ()
    """Further jobs with the key that were found and cancelled."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Journal:
    """All attempts of one run, oldest first, over all generations."""

    attempts: tuple[Attempt, ...] = ()

    def settled(self, key: str) -> Attempt | None:
        """Return the attempt that gave *key* its job."""
        return self._last(key, _SETTLED)

    def doubtful(self, key: str) -> Attempt | None:
        """Return the last attempt of *key* when nobody knows whether it made a job."""
        return self._last(key, _DOUBTFUL)

    def _last(self, key: str, steps: frozenset[Step]) -> Attempt | None:
        mine = [attempt for attempt in self.attempts if attempt.key == key]
        return mine[-1] if mine and mine[-1].step in steps else None

    def with_last(self, key: str, attempt: Attempt) -> Journal:
        """Return the journal with *attempt* in the place of the open one of *key*, or appended."""
        mine = [index for index, known in enumerate(self.attempts) if known.key == key]
        last = self.attempts[mine[-1]] if mine else None
        if last and (last.step in _DOUBTFUL or last.job_id == attempt.job_id is not None):
            before, after = self.attempts[: mine[-1]], self.attempts[mine[-1] + 1 :]
            return replace(self, attempts=(*before, attempt, *after))
        return replace(self, attempts=(*self.attempts, attempt))


class JournalFile:
    """The journal of one run folder, on disk."""

    def __init__(self, path: Path) -> None:
        """Use the file *path*; it need not exist."""
        self._path = path

    def read(self) -> Journal:
        """Return the journal, an empty one when there is no file.

        Raises ``SlurmError`` for a damaged file: taking it for an empty one could submit twice.
        """
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return Journal()
        try:
            return loads(Journal, text, str(self._path))
        except ContractError as error:
            raise SlurmError(
                f"{error}. What was submitted before cannot be read: look for the job with "
                "`squeue --name`, write down its id, then remove the file"
            ) from error

    def record(self, attempt: Attempt) -> Attempt:
        """Write *attempt* in the place of the open one of its key; on disk when this returns."""
        journal = self.read().with_last(attempt.key, attempt)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, dumps(journal) + "\n")
        fsync_path(self._path.parent)
        return attempt
