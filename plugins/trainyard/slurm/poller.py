"""The shared poller: one for each cluster and process, however many jobs are waited for."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from trainyard.slurm.client import SlurmClient
from trainyard.slurm.evidence import Evidence, Target
from trainyard.slurm.profile import ClusterProfile
from trainyard.slurm.rounds import Round, Rounds, Watched
from trainyard.slurm.runfiles import RunFiles, SharedRunFiles
from trainyard.slurm.verdict import Kind, Patience, Verdict

LOG = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True, frozen=True)
class PollOptions:
    """How often to ask. The client's budget is the hard limit; these stay below it."""

    fast_s: float = 6.5
    """Seconds between rounds while any job runs or its end is being proven."""
    slow_s: float = 30.0
    """Longest pause while all jobs wait in the queue."""
    slower: float = 1.5
    """Factor by which the pause grows with each round without news, all jobs waiting."""
    down_s: float = 120.0
    """Longest pause while the controller does not answer."""
    jitter: float = 0.1
    """Share by which a pause varies at random, so that processes do not ask in step."""
    share: float = 0.1
    """Largest share of the time that squeue may keep the controller busy."""


@dataclass(kw_only=True, slots=True, frozen=True)
class JobEvent:
    """Something new about a watched target."""

    target: Target
    """Whom it is about."""
    verdict: Verdict
    """What is concluded now."""
    at: float
    """Our time of the round that found it."""


@dataclass(kw_only=True, slots=True, frozen=True)
class PollerHealth:
    """How the poller itself does."""

    watched: int
    """Targets."""
    rounds: int
    """Rounds so far."""
    commands: int
    """Slurm commands so far."""
    unreachable: str
    """Why the controller does not answer; empty while it does."""


class Poller:
    """Watches targets on one cluster with one squeue a round for all of them.

    Use from one event loop. Everything that blocks runs in a thread: commands, parsing, judging,
    reading files in run folders. Give it a client of its own, whose budget is its hard limit.
    """

    def __init__(
        self,
        client: SlurmClient,
        profile: ClusterProfile,
        *,
        files: RunFiles | None = None,
        options: PollOptions | None = None,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.time,
        random_source: random.Random | None = None,
    ) -> None:
        """*clock* and *random_source* are for tests."""
        self._client = client
        self._options = options or PollOptions()
        self._rounds = Rounds(client, profile, files or SharedRunFiles(), patience=patience)
        self._clock = clock
        self._random = random_source or random.Random()  # noqa: S311 - jitter, no secret
        self._watched: dict[Target, Watched] = {}
        self._queues: dict[Target, list[asyncio.Queue[JobEvent]]] = {}
        self._loop_task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._count = 0
        self._failures = 0
        self._pause = self._options.fast_s
        self._unreachable = ""

    @property
    def health(self) -> PollerHealth:
        """How the poller does, for logs and the health page."""
        return PollerHealth(
            watched=len(self._watched),
            rounds=self._count,
            commands=self._client.budget.used,
            unreachable=self._unreachable,
        )

    def evidence(self, target: Target) -> Evidence | None:
        """Return what was seen of a watched target, or None when it is not watched."""
        entry = self._watched.get(target)
        return entry.evidence if entry else None

    async def watch(self, target: Target) -> AsyncIterator[JobEvent]:
        """Yield what is new about *target*, the current state first, until its final verdict.

        Leaving the iteration stops watching and leaves the job alone: a triggerer that restarts
        never cancels anything.
        """
        queue: asyncio.Queue[JobEvent] = asyncio.Queue()
        try:
            await self._subscribe(target, queue)
            while True:
                event = await queue.get()
                yield event
                if event.verdict.is_final:
                    return
        finally:
            self._unsubscribe(target, queue)

    async def final(self, target: Target) -> Verdict:
        """Return the final verdict of *target*, whenever that is."""
        async for event in self.watch(target):
            if event.verdict.is_final:
                return event.verdict
        raise RuntimeError(f"watching {target.label} ended without a verdict")

    async def _subscribe(self, target: Target, queue: asyncio.Queue[JobEvent]) -> None:
        self._queues.setdefault(target, []).append(queue)
        known = self._watched.get(target)
        if known is None:
            entry = await asyncio.to_thread(self._rounds.begin, target)
            if target in self._queues:
                self._watched.setdefault(target, entry)
        elif known.verdict is not None:
            queue.put_nowait(JobEvent(target=target, verdict=known.verdict, at=self._clock()))
        self._wake.set()
        if self._loop_task is None or self._loop_task.done():
            self._loop_task = asyncio.create_task(self._poll(), name="slurm-poller")

    def _unsubscribe(self, target: Target, queue: asyncio.Queue[JobEvent]) -> None:
        queues = self._queues.get(target, [])
        if queue in queues:
            queues.remove(queue)
        if not queues:
            self._queues.pop(target, None)
            self._watched.pop(target, None)

    async def close(self) -> None:
        """Stop asking; watchers wait for ever, so cancel them first. Jobs are left alone."""
        task, self._loop_task = self._loop_task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # -- asking

    async def _poll(self) -> None:
        while self._queues:
            pause = await self.tick()
            self._wake.clear()
            await self._sleep(pause)

    async def _sleep(self, pause: float) -> None:
        """Wait; a new target shortens a long pause to the fast one, never further."""
        fast = min(pause, self._options.fast_s)
        await asyncio.sleep(fast)
        if pause > fast and not self._wake.is_set():
            try:
                await asyncio.wait_for(self._wake.wait(), pause - fast)
            except TimeoutError:
                return

    async def tick(self) -> float:
        """Ask once about everything watched, tell the watchers, return the pause in seconds."""
        watched = dict(self._watched)
        if not watched:
            return self._options.fast_s
        now = self._clock()
        try:
            found = await asyncio.to_thread(self._timed_round, watched, now)
        except Exception:  # one unforeseen row must not end watching for everybody
            LOG.exception("a round of watching failed; asking again")
            found = Round(reachable=False, error="a round of watching failed; see the log")
        self._count += 1
        self._tell(found, now)
        return self._next_pause(found)

    def _timed_round(self, watched: dict[Target, Watched], now: float) -> Round:
        began = time.monotonic()
        found = self._rounds.round(watched, now)
        found.asked_s = time.monotonic() - began
        return found

    def _tell(self, found: Round, now: float) -> None:
        for target, verdict in found.changed:
            event = JobEvent(target=target, verdict=verdict, at=now)
            for queue in self._queues.get(target, ()):
                queue.put_nowait(event)
            if verdict.is_final:
                # Nothing is asked about it any more; its watchers still read their last event.
                self._watched.pop(target, None)
        if found.error and found.error != self._unreachable:
            LOG.warning("%s", found.error)
        self._unreachable = found.error

    def _next_pause(self, found: Round) -> float:
        options = self._options
        if not found.reachable:
            self._failures += 1
            pause = min(options.fast_s * 2.0 ** (self._failures - 1), options.down_s)
        else:
            self._failures = 0
            self._pause = self._unhurried(found)
            pause = max(self._pause, found.asked_s / options.share)
        return pause * (1 + options.jitter * (2 * self._random.random() - 1))

    def _unhurried(self, found: Round) -> float:
        """Return the pause: fast while anything may end, slower while all only wait in line."""
        kinds = {entry.verdict.kind for entry in self._watched.values() if entry.verdict}
        if kinds - {Kind.WAITING, Kind.STUCK} or found.changed:
            return self._options.fast_s
        return min(self._pause * self._options.slower, self._options.slow_s)


class PollerRegistry:
    """The pollers of this process: one for each cluster and event loop."""

    def __init__(self) -> None:
        """Start without any."""
        self._pollers: dict[tuple[str, int], Poller] = {}
        self._making: dict[tuple[str, int], asyncio.Lock] = {}

    async def get(self, cluster: str, make: Callable[[], Awaitable[Poller]]) -> Poller:
        """Return the poller of *cluster* (any name for the connection); *make* it when new."""
        key = (cluster, id(asyncio.get_running_loop()))
        async with self._making.setdefault(key, asyncio.Lock()):
            if key not in self._pollers:
                self._pollers[key] = await make()
            return self._pollers[key]

    async def close(self) -> None:
        """Stop all pollers of the running loop; jobs are left alone."""
        here = id(asyncio.get_running_loop())
        for key in [key for key in self._pollers if key[1] == here]:
            await self._pollers.pop(key).close()


POLLERS = PollerRegistry()
"""The pollers of this process, for triggers."""
