"""What is concluded of a job: the verdict, and how much patience stands before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from trainyard.slurm.identity import JobIdentity
from trainyard.slurm.states import Outcome, Taint


class Kind(StrEnum):
    """What is known of a job now."""

    UNKNOWN = "unknown"
    """Nobody answers, or the answers do not suffice: never final, keep asking."""
    WAITING = "waiting"
    """In the queue."""
    STUCK = "stuck"
    """In the queue, and it will never start as it was submitted: cancel it and say why."""
    RUNNING = "running"
    """Holds an allocation."""
    ENDING = "ending"
    """Over or between two attempts; the proof is not complete."""
    FINAL = "final"
    """Over, and two sources agree (or their disagreement is the verdict)."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Patience:
    """How long to wait for proof, in seconds of our clock."""

    absence_s: float = 300.0
    """A job that is in no record may come back for this long."""
    answers: int = 3
    """"Not there" answers in a row before a job counts as gone."""
    exit_file_s: float = 60.0
    """A shared file system may take this long to show the exit code of a killed job."""
    success_file_s: float = 300.0
    """And this long for a job that Slurm calls completed: nothing else can be said without."""
    accounting_s: float = 1800.0
    """Accounting may be late or down for this long before its word is done without."""
    never_s: float = 120.0
    """A reason for never starting must stand for this long."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Verdict:
    """What is concluded now, and what it rests on."""

    kind: Kind
    """What is known."""
    identity: JobIdentity
    """Which attempt of which job."""
    why: str
    """One sentence for the log and the task's page."""
    state: str = ""
    """Slurm's last word for its state; empty before the first."""
    outcome: Outcome | None = None
    """How it ended; only with FINAL."""
    resubmit: bool = False
    """Slurm will not run it again and its end was not its own fault: a new generation may."""
    reason: str = ""
    """Pending reason, in Slurm's word."""
    fix: str = ""
    """What to do about the reason; empty where waiting is all there is to do."""
    expected_start: int | None = None
    """Start time Slurm expects for a waiting job, on the controller's clock."""
    nodes: str = ""
    """Nodes it has or had."""
    exit_code: int | None = None
    """Exit code: the wrapper's, else that of the record."""
    exit_signal: int | None = None
    """Signal that ended it, according to the record."""
    taints: tuple[Taint, ...] = field(default=())
    """Why its measurement must not be compared."""
    sources: tuple[str, ...] = ()
    """What a final verdict rests on."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more will come."""
        return self.kind is Kind.FINAL
