"""``RunTrigger``: waits in the triggerer for the end of a run and relays what it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import TriggerEvent

from trainyard.backends import Backend, Observation, State
from trainyard.errors import UnavailableError
from trainyard.hooks.backends import backend_of
from trainyard.paths import RunPaths
from trainyard.runlog import Follower, describe
from trainyard.triggers.base import KILLED, RunWaiter

MOST_LINES = 20
"""Lines relayed to the task's log at one look; the rest stands in the run's own files."""
KILL_GRACE_S = 8.0
"""Seconds between SIGTERM and SIGKILL; Airflow gives on_kill 30."""
_PATIENCE_S = 5.0
"""Most seconds between two looks while nothing is known, say because a Docker engine is down."""


class RunTrigger(RunWaiter):
    """Waits for a run by looking at its folder, and at its processes or containers.

    :param poll_interval_s: Seconds between two looks. The others: see ``RunWaiter``.
    """

    def __init__(
        self, *, plan: str, run_id: str, deadline: float, owner: int, poll_interval_s: float = 0.5
    ) -> None:
        """Keep the arguments; the plan is read in the triggerer."""
        super().__init__(plan=plan, run_id=run_id, deadline=deadline, owner=owner)
        self.poll_interval_s = poll_interval_s

    def arguments(self) -> dict[str, Any]:
        """Return what another triggerer needs to make this trigger again."""
        return {**super().arguments(), "poll_interval_s": self.poll_interval_s}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the run until it is over; files are read in a thread, never on the loop."""
        self.say_what_about()
        async with self.streaming():
            event = await self._ended()
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]  # Airflow's is untyped

    async def _ended(self) -> dict[str, Any]:
        watch = await self._watch()
        event, pause = None, self.poll_interval_s
        while event is None:
            seen, lines = await asyncio.to_thread(watch.look)
            for line in lines:
                self.log.info("%s", line)
            event = self._event(seen)
            if event is None:
                unknown = seen.state is State.UNKNOWN
                pause = min(2 * pause, _PATIENCE_S) if unknown else self.poll_interval_s
                await asyncio.sleep(pause)
        return event

    async def _watch(self) -> _Watch:
        from asgiref.sync import sync_to_async

        study, paths = await asyncio.to_thread(self.files)
        # Airflow's way from synchronous code to its API needs the context that asgiref keeps.
        return _Watch(paths, await sync_to_async(backend_of)(study.site))

    def _event(self, seen: Observation) -> dict[str, Any] | None:
        timed_out = not seen.state.is_over and time.time() > self.deadline
        if seen.state.is_over or timed_out:
            return {"run_id": self.run_id, "state": str(seen.state), "timed_out": timed_out}
        return None

    async def end(self) -> None:
        """End the run's processes or containers."""
        await asyncio.to_thread(self._cancel, await self._watch())

    def _cancel(self, watch: _Watch) -> None:
        try:
            seen = watch.backend.cancel(
                watch.paths,
                why=KILLED,
                grace_s=KILL_GRACE_S,
                asked_by=self.owner,
            )
        except UnavailableError:
            self.log.exception("Run %s could not be ended", self.run_id)
        else:
            self.log.info("Run %s: %s %s", self.run_id, seen.state, seen.detail)


class _Watch:
    """What a trigger remembers between two looks; made and used in threads."""

    def __init__(self, paths: RunPaths, backend: Backend) -> None:
        self.paths = paths
        self.backend = backend
        self._doubt = ""
        self._metrics = Follower(path=self.paths.metrics)
        self._errors = Follower(path=self.paths.stderr)

    def look(self) -> tuple[Observation, list[str]]:
        """Return the evidence, and what the run has said since the last look.

        The evidence is taken first: what a run wrote before its end is then read for certain.
        """
        seen = self.backend.observe(self.paths)
        doubt = f"run {seen.detail}" if seen.state is State.UNKNOWN else ""
        news = [doubt] if doubt and doubt != self._doubt else []
        self._doubt = doubt
        said = [text for line in self._metrics.lines() if (text := describe(line))]
        said += self._errors.lines()
        if len(said) > MOST_LINES:
            left = len(said) - MOST_LINES
            said = [*said[:MOST_LINES], f"… {left} more lines in {self.paths.run_dir}"]
        return seen, [*news, *said]
