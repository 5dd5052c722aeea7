"""What has been seen of one job, folded into one small record; pure functions add to it.

Only answers count: a command that failed adds nothing but "could not be reached". Times of Slurm
are compared with times of Slurm only, and ours with ours: no clock skew can change a verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from trainyard.slurm.breadcrumbs import ExitFile
from trainyard.slurm.identity import JobIdentity
from trainyard.slurm.records import JobRecord
from trainyard.slurm.states import Phase, Taint

LONGEST_GAP_S = 120.0
"""Silence after which earlier "not there" answers no longer count as answers in a row."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Target:
    """One thing to watch: a job, one array element, or a het job as a whole."""

    cluster: str
    """Cluster name."""
    job_id: int
    """Id of the job, of the array, or of the first het component."""
    name: str
    """Job name: the key. A record with another name is another job with the same id."""
    task: int | None = None
    """Array index; None for a job that is no array."""
    submitted: int = 0
    """Submit time on the controller's clock when known, else 0; older records are not ours."""
    run_dir: str = ""
    """Run folder with the wrapper's files; empty: the exit code cannot be looked for."""

    @property
    def label(self) -> str:
        """The id as people and scancel spell it."""
        return f"{self.job_id}" if self.task is None else f"{self.job_id}_{self.task}"


@dataclass(kw_only=True, slots=True, frozen=True)
class Evidence:
    """All that was seen of one target so far."""

    target: Target
    """Whom it is about."""
    controller: JobRecord | None = None
    """Last record squeue or scontrol gave."""
    accounting: JobRecord | None = None
    """Newest attempt sacct gave."""
    exit: ExitFile | None = None
    """Exit code of the current attempt, once written."""
    stale_exit_ns: int = 0
    """Modification time of the exit file of an attempt before the last requeue."""
    absent_since: float | None = None
    """Our time of the first credible answer without the job, since it was last there."""
    absences: int = 0
    """Credible controller answers without the job, in a row."""
    absence_at: float | None = None
    """Our time of the last of them."""
    denied: bool = False
    """The controller said "Invalid job id" in so many words, since it was last there."""
    accounting_answers: int = 0
    """Answers of sacct since the job was last in the controller."""
    ended_since: float | None = None
    """Our time since which records say that the attempt is over."""
    ended_answers: int = 0
    """Answers that said so, in a row."""
    looks: int = 0
    """Looks for the exit-code file in vain since the attempt is over or gone."""
    unreachable_since: float | None = None
    """Our time since which the controller does not answer; None while it does."""
    restarts: int = 0
    """Requeues noticed."""
    taints: tuple[Taint, ...] = ()
    """Why its measurement must not be compared, sorted."""
    reason_since: float | None = None
    """Our time since which the pending reason is the same."""

    @property
    def identity(self) -> JobIdentity:
        """Which attempt this is, as far as it was seen."""
        record = self.controller or self.accounting
        return JobIdentity(
            cluster=self.target.cluster,
            job_id=self.target.job_id,
            submitted=record.submitted if record else self.target.submitted,
            restarts=self.restarts,
        )


def select(records: Iterable[JobRecord], target: Target) -> list[JobRecord]:
    """Return the records of *target*, oldest attempt first, het components folded into one.

    Job ids come round again: what has another name, or was submitted before ours, is another job.
    """
    mine = [
        record
        for record in records
        if record.job_id.base == target.job_id
        and record.name == target.name
        and record.submitted >= target.submitted
        and (target.task is None or record.job_id.covers(target.task))
    ]
    attempts: dict[int, list[JobRecord]] = {}
    for record in mine:
        attempts.setdefault(record.submitted, []).append(record)
    return [_fold_parts(attempts[submitted]) for submitted in sorted(attempts)]


_LIVELIEST = (Phase.RUNNING, Phase.ENDING, Phase.WAITING, Phase.ENDED)


def _fold_parts(parts: Sequence[JobRecord]) -> JobRecord:
    """Return the part that stands for the whole: alive before ended, failed before succeeded."""
    if len(parts) == 1:
        return parts[0]
    return min(
        parts,
        key=lambda part: (
            _LIVELIEST.index(part.rule.phase),
            part.state == "COMPLETED",
            part.job_id.task is None,
            part.job_id.component or 0,
        ),
    )


def by_job(records: Iterable[JobRecord]) -> Mapping[int, list[JobRecord]]:
    """Return records by base job id, so that each target looks at its own only."""
    found: dict[int, list[JobRecord]] = {}
    for record in records:
        found.setdefault(record.job_id.base, []).append(record)
    return found


def seen(evidence: Evidence, record: JobRecord, now: float) -> Evidence:
    """Add: the controller showed the job at *now*."""
    known = evidence.controller
    if known is not None and record.submitted < known.submitted:
        return evidence  # an answer overtaken by a newer one
    evidence = _requeued(evidence, record)
    same_reason = known is not None and (known.reason, known.state) == (record.reason, record.state)
    return replace(
        _ended(evidence, record, now),
        controller=_completed_by(record, known),
        absent_since=None,
        absences=0,
        absence_at=None,
        denied=False,
        accounting_answers=0,
        unreachable_since=None,
        taints=_taints(evidence.taints, record),
        reason_since=evidence.reason_since if same_reason and evidence.reason_since else now,
    )


def _completed_by(record: JobRecord, known: JobRecord | None) -> JobRecord:
    """Return *record* with what only scontrol says, when an earlier answer of its attempt did."""
    if known is None or known.submitted != record.submitted:
        return record
    requeue = record.requeue if record.requeue is not None else known.requeue
    restarts = record.restarts if record.restarts is not None else known.restarts
    return replace(record, requeue=requeue, restarts=restarts)


def _requeued(evidence: Evidence, record: JobRecord) -> Evidence:
    """Notice a new attempt: Slurm sets the submit time anew and counts restarts."""
    known = evidence.controller or evidence.accounting
    restarts = max(evidence.restarts, record.restarts or 0)
    if known is not None and record.submitted > known.submitted:
        restarts = max(restarts, evidence.restarts + 1)
    if restarts == evidence.restarts:
        return evidence
    return replace(
        evidence,
        restarts=restarts,
        exit=None,
        stale_exit_ns=evidence.exit.written_ns if evidence.exit else evidence.stale_exit_ns,
        ended_since=None,
        ended_answers=0,
        looks=0,
        taints=tuple(sorted({*evidence.taints, Taint.REQUEUED})),
    )


def _ended(evidence: Evidence, record: JobRecord, now: float) -> Evidence:
    if record.rule.phase is not Phase.ENDED:
        return replace(evidence, ended_since=None, ended_answers=0, looks=0)
    since = now if evidence.ended_since is None else min(evidence.ended_since, now)
    return replace(evidence, ended_since=since, ended_answers=evidence.ended_answers + 1)


def _taints(known: tuple[Taint, ...], record: JobRecord) -> tuple[Taint, ...]:
    taint = record.rule.taint
    return known if taint is None or taint in known else tuple(sorted({*known, taint}))


def absent(evidence: Evidence, now: float) -> Evidence:
    """Add: a credible answer of the controller at *now* did not have the job."""
    gap = now - evidence.absence_at if evidence.absence_at is not None else 0.0
    in_a_row = 0 <= gap <= LONGEST_GAP_S
    since = evidence.absent_since
    return replace(
        evidence,
        # A clock that was set back must not make the deadline pass at once when it is set right.
        absent_since=now if since is None or since > now else since,
        absences=evidence.absences + 1 if in_a_row else 1,
        denied=evidence.denied and in_a_row,
        absence_at=now,
        unreachable_since=None,
    )


def denied(evidence: Evidence, now: float) -> Evidence:
    """Add: the controller said at *now* that it does not know the job id."""
    since = evidence.absent_since
    return replace(
        evidence,
        absent_since=now if since is None or since > now else since,
        absence_at=now,
        denied=True,
        unreachable_since=None,
    )


def unreachable(evidence: Evidence, now: float) -> Evidence:
    """Add: the controller did not answer at *now*: nothing is known, nothing is counted."""
    if evidence.unreachable_since is not None:
        return evidence
    return replace(evidence, unreachable_since=now)


def accounted(evidence: Evidence, attempts: Sequence[JobRecord], now: float) -> Evidence:
    """Add: sacct answered at *now* with these attempts of the job, oldest first; maybe none."""
    evidence = replace(evidence, accounting_answers=evidence.accounting_answers + 1)
    if not attempts:
        return evidence
    newest = attempts[-1]
    if evidence.accounting is not None and newest.submitted < evidence.accounting.submitted:
        return evidence
    for attempt in attempts:
        evidence = replace(evidence, taints=_taints(evidence.taints, attempt))
    evidence = _requeued(evidence, newest)
    if len(attempts) - 1 > evidence.restarts:
        evidence = _requeued(evidence, replace(newest, restarts=len(attempts) - 1))
    over = newest.rule.phase is Phase.ENDED
    if over and (evidence.absences or evidence.denied):
        evidence = _ended(evidence, newest, now)
    return replace(evidence, accounting=newest)


def looked(evidence: Evidence, found: ExitFile | None) -> Evidence:
    """Add: the run folder was looked at and held this exit code, or none."""
    if found is None or _is_stale(evidence, found):
        return replace(evidence, looks=evidence.looks + 1)
    return evidence if found == evidence.exit else replace(evidence, exit=found, looks=0)


def _is_stale(evidence: Evidence, found: ExitFile) -> bool:
    """Return whether another job, or an attempt before the last requeue, wrote the file."""
    if found.job_id is not None and found.job_id != evidence.target.job_id:
        return True
    if found.restarts is not None:
        return found.restarts < evidence.restarts
    return bool(evidence.stale_exit_ns) and found.written_ns == evidence.stale_exit_ns
