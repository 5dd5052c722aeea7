"""What all triggers of runs have in common: their arguments, and whom a kill may reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from airflow.triggers.base import BaseTrigger

from trainyard.hooks.telling import mask_settings
from trainyard.logs import bind
from trainyard.paths import RunPaths
from trainyard.study import StudyFile, read_study

KILLED = "its task was killed in Airflow"
"""Why a run was ended by a trigger."""


_STREAM_LOOK_S = 2.0
_ENDING: set[asyncio.Task[None]] = set()  # an event loop keeps no task alive by itself


def _streaming() -> ModuleType:
    """Import what streams: the object store's client takes a moment, so not on the event loop."""
    from trainyard.streaming import background

    return background


def _task_states(**asked: Any) -> dict[str, Any]:
    """Ask Airflow; the import alone takes seconds, so not on the event loop."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    return RuntimeTaskInstance.get_task_states(**asked)


class RunWaiter(BaseTrigger):
    """Waits until one run is over or its time is.

    Needs nothing but the plan file and the run folder, so that it goes on in another triggerer
    after a restart. It never ends a run on its own account: it reports, and the operator acts.

    :param plan: Path of the study's plan.json.
    :param run_id: Name of the run folder that is being waited for.
    :param deadline: Moment after which the run has taken too long, in seconds since 1970 UTC.
    :param owner: The try that waits; a run adopted by a later try is not killed by this one.
    """

    def __init__(self, *, plan: str, run_id: str, deadline: float, owner: int) -> None:
        """Keep the arguments; the plan is read in the triggerer."""
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is untyped
        self.plan = plan
        self.run_id = run_id
        self.deadline = deadline
        self.owner = owner

    def say_what_about(self) -> None:
        """Let lines that follow in this trigger's task name the run, and hide secrets."""
        mask_settings()
        # Airflow calls the DAG run's id run_id in this process; here that is the training run's.
        bind(run_id=self.run_id, dag_run_id=getattr(self.task_instance, "run_id", None))

    def arguments(self) -> dict[str, Any]:
        """Return what another triggerer needs to make this trigger again."""
        return {
            "plan": self.plan,
            "run_id": self.run_id,
            "deadline": self.deadline,
            "owner": self.owner,
        }

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the trigger's dotted path and its arguments."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__name__}", self.arguments()

    def files(self) -> tuple[StudyFile, RunPaths]:
        """Return the study and the run's files; reads the plan, so call it in a thread."""
        study = read_study(Path(self.plan))
        return study, RunPaths(root=Path(study.site.runs_dir), run_id=self.run_id)

    @asynccontextmanager
    async def streaming(self) -> AsyncIterator[None]:
        """Have the run's finished files sent to the object store while the block runs.

        The loop only asks for it; the work is in threads of its own (docs/decisions/0013).
        """
        work = asyncio.create_task(self._stream(), name=f"stream {self.run_id}")
        try:
            yield
        finally:
            work.cancel()
            await asyncio.wait({work})

    async def _stream(self) -> None:
        try:
            background = await asyncio.to_thread(_streaming)
            _, paths = await asyncio.to_thread(self.files)
            try:
                while True:
                    background.poke(paths)
                    await asyncio.sleep(_STREAM_LOOK_S)
            finally:
                background.forget(paths)
        except Exception:
            self.log.exception("Run %s: its files are sent when it is over", self.run_id)

    async def on_kill(self) -> None:
        """End the run after a person killed, cleared or marked the task; not on a hand-over.

        Airflow also calls this when a triggerer that was stalled wakes up and finds its triggers
        reassigned (apache/airflow#73454). The task is then still deferred, and its run is left
        alone. And Airflow 3.3 cancels a killed trigger again each second until it is done, which
        interrupts this very method: the work is in a task of its own, which goes on.
        """
        work = asyncio.create_task(self._kill(), name=f"end {self.run_id}")
        _ENDING.add(work)
        work.add_done_callback(_ENDING.discard)
        await asyncio.shield(work)

    async def _kill(self) -> None:
        try:
            if await self._still_deferred():
                self.log.warning("Trigger was handed over, run %s goes on", self.run_id)
                return
            await self.end()
        except Exception:
            self.log.exception("Run %s could not be ended", self.run_id)

    async def end(self) -> None:
        """End the run."""
        raise NotImplementedError

    async def _still_deferred(self) -> bool:
        from asgiref.sync import sync_to_async

        task = self.task_instance
        if task is None:
            return False
        # Airflow's way from synchronous code to its API needs the context that asgiref keeps.
        states = await sync_to_async(_task_states)(
            dag_id=task.dag_id,
            task_ids=[task.task_id],
            run_ids=[task.run_id],
            map_index=task.map_index,
        )
        key = task.task_id if task.map_index < 0 else f"{task.task_id}_{task.map_index}"
        return bool(states.get(task.run_id, {}).get(key) == "deferred")
