"""Exactly-once submission: search before, write down the intent, search after anything unclear.

The order of steps is what makes it safe; each may be the last one of a killed process:

1. Under the run folder's lock, read the journal. A settled key is not submitted again.
2. Search by key: controller, accounting, the run folder's breadcrumb. Found: adopt it, also when
   it has ended.
   After an attempt of unknown fate, search until it would have become visible.
3. Write the intent to disk, run sbatch, write down what it said.
4. Search again: two processes without a common lock may both have come here. The earliest stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from trainyard.files import one_at_a_time
from trainyard.paths import RunPaths
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.errors import (
    SlurmError,
    SubmissionRefusedError,
    SubmissionUnknownError,
    SubmissionUnsentError,
)
from trainyard.slurm.evidence import Target
from trainyard.slurm.identity import JobKey
from trainyard.slurm.journal import Attempt, JournalFile, Step
from trainyard.slurm.profile import ClusterProfile
from trainyard.slurm.search import Found, find_jobs

LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 15.0


@dataclass(kw_only=True, slots=True, frozen=True)
class SubmitRequest:
    """One job to be in Slurm exactly once."""

    key: JobKey
    """What it is found by."""
    paths: RunPaths
    """Its run folder, seen by the job under the same path."""
    script: str
    """Text of the batch script; passed on standard input."""
    arguments: tuple[str, ...] = ()
    """sbatch arguments; job name and comment are added here."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Submission:
    """The job that a request led to."""

    target: Target
    """What to watch; for an array, one target for each element is derived from it."""
    adopted: bool
    """The job was there already."""
    duplicates: tuple[int, ...] = ()
    """Further jobs with the key that were cancelled."""
    detail: str = ""
    """How it was found or submitted, for the log."""


@dataclass(kw_only=True, slots=True, frozen=True)
class SubmitPatience:
    """How long an unclear submission is searched for."""

    visible_s: float = 60.0
    """Seconds after sbatch within which an accepted job shows up by name."""
    answers: int = 3
    """Searches that found nothing before "not submitted" is believed."""
    give_up_s: float = 180.0
    """Seconds of a controller that does not answer, after which the caller shall try later."""
    sends: int = 2
    """sbatch commands in one call at most."""
    lock_s: float = 600.0
    """Seconds to wait for another process that submits the same run."""


class Submitter:
    """Submits to one cluster. Blocks: call it in a worker, or in a thread."""

    def __init__(
        self,
        client: SlurmClient,
        profile: ClusterProfile,
        *,
        patience: SubmitPatience | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """*clock* and *sleep* are for tests with simulated time."""
        self._client = client
        self._profile = profile
        self._patience = patience or SubmitPatience()
        self._clock = clock
        self._sleep = sleep

    def submit(self, request: SubmitRequest) -> Submission:
        """Return the one job of *request*, submitted now, earlier, or by somebody else just now.

        Raises ``SubmissionRefusedError`` (change something), ``SubmissionUnsentError`` (no job;
        later may work), ``SubmissionUnknownError`` (call again: the search goes on) or another
        ``SlurmError`` when the controller cannot be searched, in which case nothing is sent.
        """
        doing = f"submitting {request.key.name}"
        with one_at_a_time(request.paths.lock, doing, wait_s=self._patience.lock_s):
            return self._submit(request, JournalFile(request.paths.journal))

    def _submit(self, request: SubmitRequest, journal: JournalFile) -> Submission:
        name = request.key.name
        known = journal.read()
        settled = known.settled(name)
        if settled and settled.submitted:
            return self._submission(request, settled, adopted=True)
        if settled:  # killed before it was made sure that the job is the only one
            return replace(self._alone(request, journal, settled), adopted=True)
        doubtful = known.doubtful(name)
        found = self._wait_for(request, doubtful.at) if doubtful else self._search(request)
        if found:
            return self._adopt(request, journal, found)
        if doubtful:
            detail = f"{doubtful.detail}; not visible after {self._patience.visible_s:.0f} s"
            journal.record(replace(doubtful, step=Step.UNSENT, detail=detail))
        return self._send(request, journal)

    def _send(self, request: SubmitRequest, journal: JournalFile) -> Submission:
        for _ in range(self._patience.sends):
            intent = journal.record(
                Attempt(key=request.key.name, step=Step.INTENT, at=self._clock())
            )
            try:
                return self._sent(request, journal, intent)
            except SubmissionUnknownError as error:
                LOG.warning("%s: %s; searching for the job", request.key.name, error)
                unknown = journal.record(replace(intent, step=Step.UNKNOWN, detail=str(error)))
                found = self._wait_for(request, intent.at)
                if found:
                    return self._adopt(request, journal, found)
                journal.record(replace(unknown, step=Step.UNSENT))
                last = error
        raise SubmissionUnsentError(
            f"{request.key.name}: sbatch failed {self._patience.sends} times, and no job with this "
            f"name appeared within {self._patience.visible_s:.0f} s each; last: {last}"
        )

    def _sent(self, request: SubmitRequest, journal: JournalFile, intent: Attempt) -> Submission:
        names = (f"--job-name={request.key.name}", f"--comment={request.key.comment}")
        try:
            submitted = self._client.sbatch(request.script, (*request.arguments, *names))
        except SubmissionUnsentError as error:
            journal.record(replace(intent, step=Step.UNSENT, detail=str(error)))
            raise
        except SubmissionRefusedError as error:
            found = self._search(request)
            if found:
                return self._adopt(request, journal, found)
            journal.record(replace(intent, step=Step.REFUSED, detail=str(error)))
            raise
        accepted = journal.record(
            replace(intent, step=Step.ACCEPTED, job_id=submitted.job_id, detail="sbatch")
        )
        return self._alone(request, journal, accepted)

    def _alone(self, request: SubmitRequest, journal: JournalFile, accepted: Attempt) -> Submission:
        """Make sure that no other process submitted the same key meanwhile."""
        try:
            found = self._search(request)
        except SlurmError as error:
            LOG.warning("%s: cannot look for duplicates: %s", request.key.name, error)
            found = []
        if len(found) > 1:
            return self._adopt(request, journal, found)
        if found and found[0].job_id == accepted.job_id:
            accepted = journal.record(replace(accepted, submitted=found[0].submitted))
        return self._submission(request, accepted, adopted=False)

    # -- searching

    def _search(self, request: SubmitRequest) -> list[Found]:
        return find_jobs(self._client, self._profile, request.key.name, request.paths.job)

    def _wait_for(self, request: SubmitRequest, since: float) -> list[Found]:
        """Search until a job of the attempt made at *since* would have become visible.

        An empty answer may be a hiccup of the controller: several are needed, spread over time.
        """
        began, answers, pause = self._clock(), 0, _FIRST_PAUSE_S
        while True:
            try:
                found = self._search(request)
            except SlurmError as error:
                if self._clock() - began >= self._patience.give_up_s:
                    raise SubmissionUnknownError(
                        f"{request.key.name}: whether the job was accepted cannot be found out now "
                        f"({error}); the next try goes on searching and submits nothing before"
                    ) from error
            else:
                if found:
                    return found
                answers += 1
                # A clock set back, or another host's that runs ahead, must not wait for ever.
                waited = self._clock() - min(since, began)
                if answers >= self._patience.answers and waited >= self._patience.visible_s:
                    return []
            self._sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE_S)

    def _adopt(
        self, request: SubmitRequest, journal: JournalFile, found: list[Found]
    ) -> Submission:
        kept, *others = sorted(found, key=lambda job: (job.submitted, job.job_id))
        surplus = tuple(job.job_id for job in others)
        if surplus:
            LOG.error("%s is job %d; cancelling %s", request.key.name, kept.job_id, surplus)
            self._client.scancel(str(job_id) for job_id in surplus)
        adopted = journal.record(
            Attempt(
                key=request.key.name,
                step=Step.ADOPTED,
                at=self._clock(),
                job_id=kept.job_id,
                submitted=kept.submitted,
                detail=f"found by {kept.source}",
                duplicates=surplus,
            )
        )
        return self._submission(request, adopted, adopted=True)

    def _submission(self, request: SubmitRequest, attempt: Attempt, *, adopted: bool) -> Submission:
        target = Target(
            cluster=self._profile.cluster,
            job_id=attempt.job_id or 0,
            name=request.key.name,
            submitted=attempt.submitted,
            run_dir=str(request.paths.run_dir),
        )
        return Submission(
            target=target, adopted=adopted, duplicates=attempt.duplicates, detail=attempt.detail
        )
