"""What engine and wrapper together say about a run's containers. Pure.

Two sources must agree before a run has ended well: the engine's exit code and the one that the
wrapper wrote. A container that is gone, or ended without its wrapper's word, is never a success.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from trainyard.backends.base import Observation, State
from trainyard.backends.folder import Cancelled
from trainyard.docker.engine import Container
from trainyard.docker.files import Ended, Planned

_KILLED_BY = 128
_SIGTERM, _SIGKILL = 15, 9


@dataclass(kw_only=True, slots=True, frozen=True)
class Part:
    """What is known of one container of a run."""

    name: str
    """Its name."""
    present: Container | None = None
    """What the engine has; None: nothing, or it was not asked."""
    ended: Ended | None = None
    """How it ended, once that is known."""
    begun: bool = False
    """It executed its script."""
    reported: bool = False
    """Its wrapper wrote an exit code."""
    code: int | None = None
    """That code."""
    told_to_end: bool = False
    """It was sent SIGTERM."""

    @property
    def absent(self) -> bool:
        """Whether nothing shows that it was ever made."""
        return self.present is None and self.ended is None and not self.begun


def observation(
    planned: Planned, parts: Sequence[Part], request: Cancelled | None, *, has_result: bool
) -> Observation:
    """Return what *parts* say about the run; *request*: somebody asked for its end."""
    if all(part.absent for part in parts):
        if request is None:
            return Observation(state=State.NOT_STARTED)
        return Observation(
            state=State.CANCELLED, started_at=planned.at, detail=f"cancelled: {request.why}"
        )
    gone = [part for part in parts if part.begun and part.present is None and part.ended is None]
    running = [part for part in parts if part.ended is None]
    if gone:
        state, code, detail = State.LOST, None, _gone(gone[0])
    elif running:
        return Observation(
            state=State.RUNNING, started_at=planned.at, detail=_running(parts, running)
        )
    else:
        state, code, detail = _ended(planned, parts)
    # What was asked to end may end with 0; only a run that had its result by then has completed.
    if request is not None and not (state is State.EXITED and code == 0 and has_result):
        state, detail = State.CANCELLED, f"cancelled: {request.why}"
    return Observation(state=state, exit_code=code, started_at=planned.at, detail=detail)


def _running(parts: Sequence[Part], running: Sequence[Part]) -> str:
    if len(parts) == 1:
        part = parts[0]
        return f"container {part.name} is {part.present.status if part.present else 'not made yet'}"
    states = ", ".join(
        f"{part.name} {part.present.status if part.present else 'not made yet'}" for part in running
    )
    return f"{len(running)} of {len(parts)} containers: {states}"


def _gone(part: Part) -> str:
    wrote = f"its wrapper wrote exit code {part.code}" if part.reported else "left no exit code"
    return (
        f"container {part.name} was removed before its end was recorded, and {wrote}: "
        "docker rm or prune, or another engine answers now"
    )


def _ended(planned: Planned, parts: Sequence[Part]) -> tuple[State, int | None, str]:
    """Return the verdict on containers that are all over: the first cause of an end that is bad."""
    verdicts = [(_when(part), *_ended_part(planned, part)) for part in parts]
    bad = [one for one in verdicts if one[1] is not State.EXITED or one[2] != 0]
    if not bad:
        return State.EXITED, 0, "exit code 0"
    # Ranks that lose their peer end with an error, too: a kill or a loss is the better reason.
    bad.sort(key=lambda one: (one[1] is State.EXITED, one[0]))
    return bad[0][1:]


def _when(part: Part) -> float:
    try:
        return datetime.fromisoformat(part.ended.finished_at).timestamp() if part.ended else 0.0
    except ValueError:
        return 0.0


def _ended_part(planned: Planned, part: Part) -> tuple[State, int | None, str]:
    ended = part.ended
    assert ended is not None  # noqa: S101 - only asked of parts that are over
    code, who = ended.exit_code, f"container {part.name}"
    if ended.oom_killed and code:
        limit = f"its limit of {planned.memory_bytes} bytes" if planned.memory_bytes else "a limit"
        detail = f"{who} ran out of memory ({limit}): raise docker.memory_bytes or lower the batch"
        return State.KILLED, code, detail
    if ended.error and code:
        return State.EXITED, code, f"{who} could not be started: {ended.error}"
    if not part.reported:
        return _unreported(code, who)
    if part.code != code:
        return State.LOST, None, f"{who}: its wrapper wrote {part.code}, the engine says {code}"
    if part.told_to_end and code:
        return State.LOST, code, f"{who} was told to end from outside (docker stop, or shutdown)"
    if code == _KILLED_BY + _SIGKILL:
        detail = f"{who}: its command was killed (exit code 137): by its time limit or a person"
        return State.EXITED, code, detail
    return State.EXITED, code, f"{who}: exit code {code}"


def _unreported(code: int, who: str) -> tuple[State, int | None, str]:
    if code in {_KILLED_BY + _SIGKILL, _KILLED_BY + _SIGTERM, 255}:
        detail = f"{who} was killed (exit code {code}): docker kill, or the engine was restarted"
        return State.LOST, None, f"{detail}; its wrapper left no exit code"
    if code:
        return State.EXITED, code, f"{who}: its wrapper gave up with exit code {code}"
    return State.LOST, None, f"{who}: the engine says 0, but its wrapper left no exit code"
