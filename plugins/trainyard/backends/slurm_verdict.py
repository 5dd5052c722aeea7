"""What a verdict on a run's Slurm job means for the run. Reads the run folder, asks nobody."""

from __future__ import annotations

from trainyard.backends import folder
from trainyard.backends.base import Observation, State
from trainyard.paths import RunPaths
from trainyard.slurm.runjob import RunJob, signal_noted
from trainyard.slurm.site import SlurmSite
from trainyard.slurm.states import Outcome
from trainyard.slurm.verdict import Kind, Verdict

_KILLED = frozenset({Outcome.TIMEOUT, Outcome.DEADLINE, Outcome.OUT_OF_MEMORY})
RESUBMITTED = "resubmitted"
"""Taint of a run whose job had to be submitted again."""


def interpret(slurm: SlurmSite, paths: RunPaths, job: RunJob, verdict: Verdict) -> Observation:
    """Return what *verdict* on the run's newest job means for the run."""
    number = job.attempt.job_id if job.attempt else None
    where = f" on {verdict.nodes}" if verdict.nodes else ""
    request = folder.cancelled(paths)
    state, code = _state(slurm, paths, job, verdict)
    detail = f"job {number}{where}: {verdict.why}"
    if state is State.CANCELLED and request is not None:
        detail = f"cancelled: {request.why}"
    elif state is State.EXITED and code and (told := signal_noted(paths, number or 0)):
        # Slurm says FAILED, too, when the script ends by itself at the warning before a limit.
        state = State.KILLED
        detail += f"; told to end by signal {told}: its time limit is near, or somebody sent it"
    again = (RESUBMITTED,) if job.key.generation else ()
    return Observation(
        state=state,
        exit_code=code,
        started_at=job.first_at,
        detail=detail,
        taints=(*(str(taint) for taint in verdict.taints), *again),
    )


def _state(
    slurm: SlurmSite, paths: RunPaths, job: RunJob, verdict: Verdict
) -> tuple[State, int | None]:
    if not verdict.is_final:
        return (State.UNKNOWN if verdict.kind is Kind.UNKNOWN else State.RUNNING), None
    done = verdict.outcome is Outcome.SUCCEEDED
    # What was asked to end may end well; only a run that had its result by then has completed.
    if folder.cancelled(paths) is not None and not (done and paths.result.exists()):
        return State.CANCELLED, verdict.exit_code
    if verdict.resubmit:
        again = job.key.generation < slurm.resubmits
        return (State.INTERRUPTED if again else State.LOST), None
    return _ended(verdict), verdict.exit_code


def _ended(verdict: Verdict) -> State:
    if verdict.outcome is Outcome.SUCCEEDED:
        return State.EXITED
    if verdict.outcome is Outcome.CANCELLED:
        return State.CANCELLED
    if verdict.outcome is Outcome.FAILED:
        return State.EXITED if verdict.exit_code else State.KILLED
    return State.KILLED if verdict.outcome in _KILLED else State.LOST
