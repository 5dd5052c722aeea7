"""``RunTrigger``: waits in the triggerer for the end of a run and relays what it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from trainyard.backends import Backend, Observation, open_backend
from trainyard.errors import UnavailableError
from trainyard.paths import RunPaths
from trainyard.runlog import Follower, describe
from trainyard.study import read_study

MOST_LINES = 20
"""Lines relayed to the task's log at one look; the rest stands in the run's own files."""
KILL_GRACE_S = 8.0
"""Seconds between SIGTERM and SIGKILL; Airflow gives on_kill 30."""


class RunTrigger(BaseTrigger):
    """Waits until a run is over or its time is.

    Needs nothing but the plan file and the run folder, so that it goes on in another triggerer
    after a restart. It never ends a run on its own account: it reports, and the operator acts.

    :param plan: Path of the study's plan.json.
    :param run_id: Name of the run folder that is being waited for.
    :param deadline: Moment after which the run has taken too long, in seconds since 1970 UTC.
    :param owner: The try that waits; a run adopted by a later try is not killed by this one.
    :param poll_interval_s: Seconds between two looks.
    """

    def __init__(
        self, *, plan: str, run_id: str, deadline: float, owner: int, poll_interval_s: float = 0.5
    ) -> None:
        """Keep the arguments; the plan is read in the triggerer."""
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is untyped
        self.plan = plan
        self.run_id = run_id
        self.deadline = deadline
        self.owner = owner
        self.poll_interval_s = poll_interval_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to make this trigger again."""
        return (
            "trainyard.triggers.run.RunTrigger",
            {
                "plan": self.plan,
                "run_id": self.run_id,
                "deadline": self.deadline,
                "owner": self.owner,
                "poll_interval_s": self.poll_interval_s,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the run until it is over; files are read in a thread, never on the loop."""
        watch = await asyncio.to_thread(_Watch, self.plan, self.run_id)
        event = None
        while event is None:
            seen, lines = await asyncio.to_thread(watch.look)
            for line in lines:
                self.log.info("%s", line)
            event = self._event(seen)
            if event is None:
                await asyncio.sleep(self.poll_interval_s)
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]  # Airflow's is untyped

    def _event(self, seen: Observation) -> dict[str, Any] | None:
        timed_out = not seen.state.is_over and time.time() > self.deadline
        if seen.state.is_over or timed_out:
            return {"run_id": self.run_id, "state": str(seen.state), "timed_out": timed_out}
        return None

    async def on_kill(self) -> None:
        """End the run after a person killed, cleared or marked the task; not on a hand-over.

        Airflow also calls this when a triggerer that was stalled wakes up and finds its triggers
        reassigned (apache/airflow#73454). The task is then still deferred, and its run is left
        alone.
        """
        if await self._still_deferred():
            self.log.warning("Trigger was handed over, run %s goes on", self.run_id)
            return
        await asyncio.to_thread(self._cancel)

    async def _still_deferred(self) -> bool:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
        from asgiref.sync import sync_to_async

        task = self.task_instance
        if task is None:
            return False
        states = await sync_to_async(RuntimeTaskInstance.get_task_states)(
            dag_id=task.dag_id,
            task_ids=[task.task_id],
            run_ids=[task.run_id],
            map_index=task.map_index,
        )
        key = task.task_id if task.map_index < 0 else f"{task.task_id}_{task.map_index}"
        return bool(states.get(task.run_id, {}).get(key) == "deferred")

    def _cancel(self) -> None:
        watch = _Watch(self.plan, self.run_id)
        try:
            seen = watch.backend.cancel(
                watch.paths,
                why="its task was killed in Airflow",
                grace_s=KILL_GRACE_S,
                asked_by=self.owner,
            )
        except UnavailableError:
            self.log.exception("Run %s could not be ended", self.run_id)
        else:
            self.log.info("Run %s: %s %s", self.run_id, seen.state, seen.detail)


class _Watch:
    """What a trigger remembers between two looks; made and used in threads."""

    def __init__(self, plan: str, run_id: str) -> None:
        study = read_study(Path(plan))
        self.paths = RunPaths(root=Path(study.site.runs_dir), run_id=run_id)
        self.backend: Backend = open_backend(study.site)
        self._metrics = Follower(path=self.paths.metrics)
        self._errors = Follower(path=self.paths.stderr)

    def look(self) -> tuple[Observation, list[str]]:
        """Return the evidence, and what the run has said since the last look.

        The evidence is taken first: what a run wrote before its end is then read for certain.
        """
        seen = self.backend.observe(self.paths)
        said = [text for line in self._metrics.lines() if (text := describe(line))]
        said += self._errors.lines()
        if len(said) > MOST_LINES:
            left = len(said) - MOST_LINES
            said = [*said[:MOST_LINES], f"… {left} more lines in {self.paths.run_dir}"]
        return seen, said
