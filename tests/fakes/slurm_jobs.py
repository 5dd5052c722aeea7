"""Jobs of the fake cluster: lives with fixed times, and what their wrapper leaves behind."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

FOREVER = 10**9


class FakeClock:
    """Simulated time: sleeping is the only thing that takes any."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


@dataclass(frozen=True, kw_only=True)
class Life:
    """One attempt of a job."""

    wait_s: float = 1.0
    run_s: float = 10.0
    end: str = "COMPLETED"
    exit_code: int | None = 0
    """What the wrapper writes at the end; None: it was killed and wrote nothing."""
    reason: str = "Resources"
    started: bool = True
    """False: it ends while it still waits, after wait_s."""
    requeued: bool = False
    """The next life follows under the same id."""
    suspended: tuple[float, float] = (0.0, 0.0)
    """Seconds of the run between which it is suspended."""


def killed(end: str, **more) -> Life:
    """A life that Slurm ends: the wrapper gets no chance to write."""
    return Life(end=end, exit_code=None, **more)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a job will go through."""

    lives: tuple[Life, ...] = (Life(),)
    run_dir: Path | None = None
    wrapper: bool = True
    requeue: bool = True
    components: int = 1
    elements: tuple[Plan, ...] = ()
    """For arrays, one plan for each element."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A life on the clock."""

    submitted: float
    start: float
    end: float
    life: Life


@dataclass(kw_only=True)
class FakeJob:
    """One job, array element or het job."""

    job_id: int
    base: int
    name: str
    comment: str
    submitted: float
    plan: Plan
    partition: str = "main"
    user: str = "ty"
    task: int | None = None
    cancelled: float | None = None
    hidden: bool = False
    """Gone from the controller as if its state had been lost."""
    _done: int = field(default=0)

    def attempts(self) -> list[Attempt]:
        """The lives on the clock, cut where the job was cancelled."""
        found, at = [], self.submitted
        for life in self.plan.lives:
            start = at + life.wait_s if life.started else FOREVER * 10.0
            end = (start if life.started else at + life.wait_s) + (
                life.run_s if life.started else 0
            )
            if self.cancelled is not None and at <= self.cancelled < end:
                ran = self.cancelled >= start
                cut = replace(
                    life,
                    end="CANCELLED",
                    exit_code=143 if ran and life.exit_code is not None else None,
                    requeued=False,
                )
                found.append(Attempt(submitted=at, start=start, end=self.cancelled, life=cut))
                return found
            found.append(Attempt(submitted=at, start=start, end=end, life=life))
            at = end
        return found

    def current(self, now: float) -> tuple[int, Attempt]:
        """Index and attempt that the controller shows at *now*."""
        attempts = self.attempts()
        for index, attempt in enumerate(attempts):
            if now < attempt.end or index == len(attempts) - 1 or not attempt.life.requeued:
                return index, attempt
        raise AssertionError("unreachable")

    def state(self, now: float) -> tuple[str, str]:
        """State and reason at *now*."""
        index, attempt = self.current(now)
        if now >= attempt.end:
            return attempt.life.end, ""
        if now < attempt.start:
            return "PENDING", "BeginTime" if index else attempt.life.reason
        begin, until = attempt.life.suspended
        if begin <= now - attempt.start < until:
            return "SUSPENDED", ""
        return "RUNNING", ""

    def interrupt(self, now: float, end: str, *, requeued: bool) -> bool:
        """End the running life now, as Slurm does; True when there was one."""
        index, attempt = self.current(now)
        if not attempt.start <= now < attempt.end:
            return False
        cut = replace(
            attempt.life, run_s=now - attempt.start, end=end, exit_code=None, requeued=requeued
        )
        again = (Life(wait_s=130.0),) if requeued else ()
        self.plan = replace(self.plan, lives=(*self.plan.lives[:index], cut, *again))
        return True

    def over_since(self, now: float) -> float | None:
        """Since when the job as a whole is over, or None."""
        _, attempt = self.current(now)
        return attempt.end if now >= attempt.end else None

    def leave_files(self, now: float) -> None:
        """Write what the wrapper would have written by *now*, in order, each once."""
        if self.plan.run_dir is None or not self.plan.wrapper:
            return
        steps = []
        for index, attempt in enumerate(self.attempts()):
            if attempt.start < attempt.end:
                steps.append((attempt.start, index, None))
                if attempt.life.exit_code is not None:
                    steps.append((attempt.end, index, attempt.life.exit_code))
        for at, index, code in steps[self._done :]:
            if at > now:
                return
            self._done += 1
            self._write(index, code)

    def _write(self, index: int, code: int | None) -> None:
        folder = self.plan.run_dir
        folder.mkdir(parents=True, exist_ok=True)
        if code is not None:
            (folder / "exit_code").write_text(f"{code}\n")
            return
        (folder / "exit_code").unlink(missing_ok=True)
        crumb = {
            "job_id": self.job_id,
            "array_job_id": self.base if self.task is not None else None,
        }
        crumb |= {"het_job_id": None, "restarts": index, "cluster": "fake", "name": self.name}
        (folder / "job.json").write_text(json.dumps(crumb))

    def label(self) -> str:
        return str(self.job_id) if self.task is None else f"{self.base}_{self.task}"

    def ran(self, now: float) -> bool:
        """Whether any life has started by *now*: two of one key must never."""
        return any(
            attempt.start <= now and attempt.start < attempt.end for attempt in self.attempts()
        )
