"""Cancelling jobs, many in one command, and making sure that they are gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from trainyard.slurm.client import SlurmClient
from trainyard.slurm.errors import SlurmError
from trainyard.slurm.evidence import Target, by_job, select
from trainyard.slurm.records import JobRecord
from trainyard.slurm.states import Phase

_PAUSES_S = (0.5, 2.0, 5.0, 10.0)


@dataclass(kw_only=True, slots=True, frozen=True)
class CancelReport:
    """What became of a request to cancel."""

    gone: tuple[Target, ...] = ()
    """Over, or no longer known to the controller."""
    ending: tuple[Target, ...] = ()
    """Told to end; their processes or epilogs still run."""
    alive: tuple[Target, ...] = ()
    """Still waiting or running after every try: somebody must look."""
    error: str = ""
    """Why it could not be checked; empty when it was."""

    @property
    def complete(self) -> bool:
        """Whether no target can start or go on running."""
        return not self.alive and not self.error


def cancel(
    client: SlurmClient,
    targets: Iterable[Target],
    *,
    sleep: Callable[[float], None] = time.sleep,
    pauses_s: Sequence[float] = _PAUSES_S,
) -> CancelReport:
    """Cancel *targets* with one scancel for all, look, and repeat for those still alive.

    A target whose id is 0 (submitted, id unknown) is cancelled by its name. Blocks for the sum of
    *pauses_s* at most. Does not raise when the controller stops answering: the report says so, and
    the caller asks again; cancelling twice is harmless.
    """
    left = list(targets)
    states: dict[Target, JobRecord | None] = {}
    try:
        for pause in pauses_s:
            if left:
                _order(client, left)
                sleep(pause)
                states |= _states(client, left)
                left = [target for target in left if _alive(states[target])]
    except SlurmError as error:
        return replace(_report(states), alive=tuple(left), error=str(error))
    return _report(states)


def _order(client: SlurmClient, targets: Sequence[Target]) -> None:
    # A job whose id is known is cancelled by id and not by name: the name may have a successor.
    numbered = [target.label for target in targets if target.job_id]
    if numbered:
        client.scancel(numbered)
    for target in targets:
        if not target.job_id:
            client.scancel_name(target.name)


def _states(client: SlurmClient, targets: Sequence[Target]) -> dict[Target, JobRecord | None]:
    ids = {target.job_id for target in targets if target.job_id}
    records = by_job(client.squeue(jobs=ids)) if ids else {}
    states: dict[Target, JobRecord | None] = {}
    for target in targets:
        if target.job_id:
            found = select(records.get(target.job_id, ()), target)
        else:
            found = client.squeue(name=target.name)
        states[target] = found[-1] if found else None
    return states


def _alive(record: JobRecord | None) -> bool:
    return record is not None and record.rule.phase in {Phase.WAITING, Phase.RUNNING}


def _report(states: Mapping[Target, JobRecord | None]) -> CancelReport:
    ending = {
        target for target, record in states.items() if record and record.rule.phase is Phase.ENDING
    }
    alive = {target for target, record in states.items() if _alive(record)}
    return CancelReport(
        gone=tuple(target for target in states if target not in ending | alive),
        ending=tuple(target for target in states if target in ending),
        alive=tuple(target for target in states if target in alive),
    )
