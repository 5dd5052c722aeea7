"""``SlurmJobTrigger``: waits in the triggerer for the end of a run's Slurm job.

All triggers of one cluster in one triggerer share one poller, which asks about all their jobs with
one command. Restarting a triggerer, or losing it, ends no job: another one goes on from what stands
in the run folder.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import TriggerEvent

from trainyard.backends import folder
from trainyard.errors import TrainyardError
from trainyard.hooks.slurm import access_of
from trainyard.slurm.access import Access, known_profile
from trainyard.slurm.poller import POLLERS, JobEvent, Poller
from trainyard.slurm.runjob import keep_verdict
from trainyard.slurm.verdict import Kind, Verdict
from trainyard.triggers.base import KILLED, RunWaiter
from trainyard.triggers.cancelling import batch_for
from trainyard.triggers.watching import JobWatch

LOOK_S = 5.0
"""Seconds between two looks at the job's own files for the task's log."""
_FIRST_RETRY_S, _LONGEST_RETRY_S = 5.0, 120.0


class SlurmJobTrigger(RunWaiter):
    """Waits for the newest job of a run; see ``RunWaiter`` for the arguments.

    Reports a final verdict, a job that will never start, or that the time is over.
    """

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch the job until the operator has something to do."""
        self.say_what_about()
        async with self.streaming():
            event = await self._event()
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]  # Airflow's is untyped

    async def _event(self) -> dict[str, Any]:
        found = await self._contact()
        if found is None:
            return self._report(timed_out=True)
        watch, poller = found
        async with aclosing(poller.watch(watch.target)) as events:  # type: ignore[type-var]
            return await self._follow(watch, events)

    def _report(self, *, timed_out: bool = False, stuck: str = "") -> dict[str, Any]:
        return {"run_id": self.run_id, "timed_out": timed_out, "stuck": stuck}

    async def _contact(self) -> tuple[JobWatch, Poller] | None:
        """Return the job and its cluster's poller; None when time is over before they answer."""
        pause = _FIRST_RETRY_S
        while True:
            try:
                return await self._connect()
            except (TrainyardError, OSError) as error:
                self.log.warning("Cannot watch run %s yet: %s", self.run_id, error)
            left = self.deadline - time.time()
            if left <= 0:
                return None
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_RETRY_S)

    async def _connect(self) -> tuple[JobWatch, Poller]:
        from asgiref.sync import sync_to_async

        study, paths = await asyncio.to_thread(self.files)
        # Airflow's way from synchronous code to its API needs the context that asgiref keeps.
        access = await sync_to_async(access_of)(study.site)
        watch = await asyncio.to_thread(JobWatch, study.site, paths, access)
        poller = await POLLERS.get(access.name, lambda: _make_poller(watch, access))
        return watch, poller

    async def _follow(self, watch: JobWatch, events: AsyncIterator[JobEvent]) -> dict[str, Any]:
        """Relay what the cluster and the job say until there is something to report."""
        coming = asyncio.ensure_future(anext(events))
        try:
            while True:
                left = self.deadline - time.time()
                await asyncio.wait({coming}, timeout=max(0.0, min(LOOK_S, left)))
                for line in await asyncio.to_thread(watch.said):
                    self.log.info("%s", line)
                if coming.done():
                    report = await self._heard(watch, coming.result().verdict)
                    if report is not None:
                        return report
                    coming = asyncio.ensure_future(anext(events))
                elif time.time() > self.deadline:
                    return self._report(timed_out=True)
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def _heard(self, watch: JobWatch, verdict: Verdict) -> dict[str, Any] | None:
        self.log.info("Job %s: %s", watch.target.label, in_words(verdict))
        if verdict.kind is Kind.STUCK:
            return self._report(stuck=verdict.why)
        if not verdict.is_final:
            return None
        await asyncio.to_thread(keep_verdict, watch.paths, watch.target.name, verdict)
        for line in await asyncio.to_thread(watch.said):
            self.log.info("%s", line)
        return self._report()

    async def end(self) -> None:
        """End the run's job, together with all others that are ended at this moment."""
        from asgiref.sync import sync_to_async

        study, paths = await asyncio.to_thread(self.files)
        if not await asyncio.to_thread(
            lambda: folder.request_end(paths, KILLED, asked_by=self.owner)
        ):
            self.log.info("Run %s was adopted by a later try and goes on", self.run_id)
            return
        access = await sync_to_async(access_of)(study.site)
        watch = await asyncio.to_thread(JobWatch, study.site, paths, access)
        report = await batch_for(access).cancel(watch.target)
        if report.complete:
            self.log.info("Job %s was cancelled", watch.target.label)
        else:
            self.log.error(
                "Job %s was told to end and is not gone yet (%s); reconcile_slurm finds it",
                watch.target.label,
                report.error or "the controller still shows it",
            )


def in_words(verdict: Verdict) -> str:
    """Return what is known of a job for its task's log."""
    text = verdict.why
    if verdict.nodes:
        text += f"; nodes {verdict.nodes}"
    if verdict.expected_start and verdict.kind is Kind.WAITING:
        moment = datetime.fromtimestamp(verdict.expected_start, UTC)
        text += f"; Slurm expects to start it at {moment:%Y-%m-%d %H:%M:%S} UTC"
    if verdict.taints:
        text += f"; its measurement is not comparable: {', '.join(verdict.taints)}"
    return text


async def _make_poller(watch: JobWatch, access: Access) -> Poller:
    client = await asyncio.to_thread(access.watching_client)
    profile = await asyncio.to_thread(known_profile, access, client, watch.notes)
    return Poller(client, profile, options=access.options())
