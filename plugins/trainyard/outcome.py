"""The verdict on a run that is over, from independent evidence; pure but for reading its files.

Success needs two sources that agree: an exit code of 0, written by the wrapper, and a valid result,
written by the trainer. Anything less is failed (there is an exit code), cancelled (somebody asked),
or lost (there is neither).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from trainer.contract import ContractError, Flag, Phase, RunResult, RunSpec, Status, loads
from trainyard.backends.base import Observation, State
from trainyard.paths import RunPaths
from trainyard.runlog import tail, tail_of_run


@dataclass(kw_only=True, slots=True, frozen=True)
class Outcome:
    """How a run ended."""

    status: Status
    """The verdict."""
    phase: str = ""
    """How far the run came, as far as anybody knows."""
    reason: str = ""
    """Why it has no valid result; empty when it has."""
    log_tail: str = ""
    """End of its log; empty when it completed."""
    exit_code: int | None = None
    """What the wrapper wrote."""
    result: RunResult | None = None
    """The record it left, with the status of this verdict."""


def judge(
    paths: RunPaths, spec: RunSpec, seen: Observation, *, timed_out_after_s: float | None = None
) -> Outcome:
    """Return the verdict on a run that is over, or that was ended for taking too long."""
    result, complaint = read_result(paths, spec)
    result = _tainted(result, seen.taints) if result else None
    status, reason = _verdict(seen, result, complaint, timed_out_after_s)
    if status is Status.COMPLETED:
        return Outcome(status=status, phase=Phase.FINISHED, exit_code=seen.exit_code, result=result)
    return Outcome(
        status=status,
        phase=result.phase if result else _phase_reached(paths),
        reason=reason,
        log_tail=tail_of_run(paths),
        exit_code=seen.exit_code,
        result=replace(result, status=status, reason=reason) if result else None,
    )


def _tainted(result: RunResult, taints: tuple[str, ...]) -> RunResult:
    """Return *result* with the flag of a measurement that something outside the run disturbed."""
    if not taints or Flag.PREEMPTED in result.flags:
        return result
    missing = ("",) * (len(result.flags) - len(result.flag_details))
    return replace(
        result,
        flags=(*result.flags, Flag.PREEMPTED),
        flag_details=(*result.flag_details, *missing, ", ".join(taints)),
    )


def read_result(paths: RunPaths, spec: RunSpec) -> tuple[RunResult | None, str]:
    """Return the run's result, or None and what is wrong with it."""
    try:
        text = paths.result.read_text()
    except FileNotFoundError:
        return None, "it left no result.json"
    except (OSError, UnicodeDecodeError) as error:
        return None, f"result.json cannot be read: {error}"
    try:
        result = loads(RunResult, text, "result.json")
    except ContractError as error:
        return None, str(error)
    for name, found, wanted in (
        ("run_id", result.run_id, paths.run_id),
        ("spec_id", result.spec_id, spec.spec_id),
    ):
        if found != wanted:
            return None, f"result.json: {name} = {found!r} is another run's, not {wanted!r}"
    return result, ""


def _verdict(
    seen: Observation, result: RunResult | None, complaint: str, timed_out_after_s: float | None
) -> tuple[Status, str]:
    if seen.state is State.EXITED and seen.exit_code == 0:
        return _clean_exit(result, complaint)
    if seen.state is State.NOT_STARTED:
        return Status.FAILED, "it was never started; the log of its task says why"
    if timed_out_after_s is not None:
        return Status.FAILED, f"it was stopped after {timed_out_after_s:.0f} s, the site's limit"
    if seen.state is State.CANCELLED:
        return Status.CANCELLED, seen.detail
    if seen.state is State.KILLED:
        return Status.FAILED, seen.detail
    if seen.state is State.EXITED:
        said = result.reason if result and result.reason else complaint
        return Status.FAILED, f"exit code {seen.exit_code}" + (f": {said}" if said else "")
    return Status.LOST, seen.detail or f"no trace of the run: {seen.state}"


def _clean_exit(result: RunResult | None, complaint: str) -> tuple[Status, str]:
    if result is None:
        return Status.FAILED, f"exit code 0, but {complaint}"
    if result.status is not Status.COMPLETED:
        return Status.FAILED, f"exit code 0, but the trainer says {result.status}: {result.reason}"
    if broken := [check for check in result.sanity if not check.passed]:
        named = "; ".join(f"{check.name} ({check.detail})" for check in broken)
        return Status.FAILED, f"sanity check failed: {named}"
    return Status.COMPLETED, ""


def _phase_reached(paths: RunPaths) -> str:
    """Return the last phase the run announced, or launch."""
    for line in reversed(tail(paths.metrics).splitlines()):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict) and event.get("event") == "phase":
            return str(event.get("name", ""))
    return Phase.SETUP if paths.stderr.exists() else Phase.LAUNCH
