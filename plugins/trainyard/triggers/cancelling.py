"""Cancelling many jobs at the same moment with one scancel: for triggers of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from trainyard.slurm.access import Access
from trainyard.slurm.cancel import CancelReport, cancel
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.evidence import Target

GATHER_S = 0.3
"""Seconds for which further jobs may join a batch; Airflow gives on_kill 30."""


class CancelBatch:
    """Collects jobs to cancel and cancels them together, as often as jobs keep coming.

    Failing a DAG run kills all its tasks within a second; a command for each would overload the
    controller.
    """

    def __init__(
        self, make_client: Callable[[], SlurmClient], *, gather_s: float = GATHER_S
    ) -> None:
        """*make_client* is called in a thread when first needed."""
        self._make_client = make_client
        self._gather_s = gather_s
        self._client: SlurmClient | None = None
        self._waiting: dict[Target, asyncio.Future[CancelReport]] = {}
        self._sender: asyncio.Task[None] | None = None

    async def cancel(self, target: Target) -> CancelReport:
        """Cancel *target* and return what became of its batch."""
        future = self._waiting.get(target)
        if future is None:
            future = self._waiting[target] = asyncio.get_running_loop().create_future()
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send(), name="slurm-cancel")
        return await asyncio.shield(future)

    async def _send(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._gather_s)
            batch, self._waiting = self._waiting, {}
            try:
                report = await asyncio.to_thread(self._cancel, list(batch))
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
                for future in batch.values():
                    future.set_exception(error)
            else:
                for future in batch.values():
                    future.set_result(report)

    def _cancel(self, targets: Sequence[Target]) -> CancelReport:
        if self._client is None:
            self._client = self._make_client()
        return cancel(self._client, targets)


_BATCHES: dict[tuple[str, int], CancelBatch] = {}


def batch_for(access: Access) -> CancelBatch:
    """Return the running loop's batch for the cluster behind *access*."""
    key = (access.name, id(asyncio.get_running_loop()))
    if key not in _BATCHES:
        _BATCHES[key] = CancelBatch(access.client)
    return _BATCHES[key]
