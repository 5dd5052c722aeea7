"""Slurm backend: a run as a batch job, submitted exactly once and judged by evidence.

A run whose job lost its node or gave way to another one, and that Slurm does not start again, is
*interrupted*: ``start`` submits the next generation in the same folder, so that a trainer with
checkpoints goes on from its last one. How often, the site says.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from trainer.contract import RunSpec
from trainyard.backends import folder
from trainyard.backends.base import JobUsage, Observation, State
from trainyard.backends.slurm_usage import usage_of
from trainyard.backends.slurm_verdict import interpret
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.launch import Launch
from trainyard.paths import RunPaths
from trainyard.sites import Site
from trainyard.slurm.access import Access, known_profile
from trainyard.slurm.cancel import cancel
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.directives import slurm_of
from trainyard.slurm.errors import SlurmError
from trainyard.slurm.evidence import Target
from trainyard.slurm.identity import JobIdentity, JobKey
from trainyard.slurm.journal import Attempt, JournalFile
from trainyard.slurm.profile import ClusterProfile
from trainyard.slurm.quarantine import Quarantine
from trainyard.slurm.rounds import Rounds
from trainyard.slurm.runfiles import SharedRunFiles
from trainyard.slurm.runjob import RunJob, job_of, keep_verdict, target_of, usage_by_wrapper
from trainyard.slurm.states import Outcome
from trainyard.slurm.submit import Submission, SubmitPatience, SubmitRequest, Submitter
from trainyard.slurm.verdict import Kind, Patience, Verdict

LOG = logging.getLogger(__name__)
_PAUSES_S = (0.5, 1.0, 2.5, 5.0, 10.0)


class SlurmBackend:
    """Runs on one Slurm site, reached through one ``Access``. Blocks: use it in a thread."""

    def __init__(
        self,
        site: Site,
        access: Access,
        *,
        patience: Patience | None = None,
        submit_patience: SubmitPatience | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Ask nobody yet; *clock* and *sleep* are for tests with simulated time."""
        self._site = site
        self._slurm = slurm_of(site)
        self.access = access
        self._patience = patience
        self._submit_patience = submit_patience
        self._clock = clock
        self._sleep = sleep
        self._profile: ClusterProfile | None = None

    @cached_property
    def client(self) -> SlurmClient:
        """What asks the cluster."""
        return self.access.client()

    @property
    def notes(self) -> Path:
        """Folder of what is known of clusters: probes, bad nodes."""
        return Path(self._site.runs_dir) / ".slurm"

    # Not functools.cached_property: until Python 3.12 it holds one lock for all instances, and a
    # cluster that does not answer would keep the others waiting.
    @property
    def profile(self) -> ClusterProfile:
        """What kind of cluster it is; raises ``SlurmError`` at first contact."""
        if self._profile is None:
            self._profile = known_profile(self.access, self.client, self.notes, clock=self._clock)
        return self._profile

    @property
    def quarantine(self) -> Quarantine:
        """The cluster's bad nodes."""
        return Quarantine(self.notes, self.profile.cluster, clock=self._clock)

    def job(self, paths: RunPaths) -> RunJob:
        """Return the run's newest submission, from its folder alone."""
        return job_of(paths, self._site.runs_dir)

    # -- the seam

    def start(self, launch: Launch, paths: RunPaths, spec: RunSpec) -> Observation:
        """Submit the run, or its continuation, unless that was done before (see ``Backend``)."""
        with folder.told(paths):
            with folder.locked(paths):
                folder.check_same_spec(paths, spec)
                if not paths.script.exists():
                    folder.write_launch(paths, launch, spec)
            job = self.job(paths)
            seen = self._look(paths, job)
            if seen.state is State.INTERRUPTED and job.verdict is not None:
                for bad in self.quarantine.blame(job.verdict):
                    LOG.warning("node %s is left out for now: %s", bad.node, bad.reason)
                return self._submit(paths, spec, job.key.next())
            if not (job.submitted or seen.state.is_over):
                return self._submit(paths, spec, job.key)
            return seen

    def observe(self, paths: RunPaths) -> Observation:
        """Return the evidence; asks Slurm only while the run's job has no final verdict."""
        return self._look(paths, self.job(paths))

    def cancel(
        self, paths: RunPaths, *, why: str, grace_s: float = 10.0, asked_by: int | None = None
    ) -> Observation:
        """End the run's job and look whether it is gone; *grace_s* bounds the looking.

        Raises ``UnavailableError`` when nobody can say whether it is: ask again.
        """
        job = self.job(paths)
        seen = self._look(paths, job)
        if seen.state is State.NOT_STARTED or seen.state.is_over:
            return seen
        if not folder.request_end(paths, why, asked_by=asked_by):
            return seen
        if job.verdict is None:
            self._end(paths, job, why, grace_s)
        return self.observe(paths)

    def sweep(self, paths: RunPaths) -> int:
        """Return 0: Slurm itself ends every process of a job that is over."""
        return 0

    def usage(self, paths: RunPaths) -> tuple[JobUsage, ...]:
        """Return what each job of the run used: accounting's word, else the wrapper's notes."""
        noted = usage_by_wrapper(paths)
        jobs = {use.job_id for use in noted}
        job = self.job(paths)
        if job.attempt is not None and job.attempt.job_id:
            jobs.add(job.attempt.job_id)
        try:
            return (self._accounted(paths, jobs, noted) if jobs else ()) or noted
        except SlurmError as error:
            LOG.warning("no accounting of run %s: %s", paths.run_id, error)
            return noted

    # -- submitting

    def _submit(self, paths: RunPaths, spec: RunSpec, key: JobKey) -> Observation:
        request = SubmitRequest(
            key=key,
            paths=paths,
            script=paths.script.read_text(),
            arguments=self._exclude(spec),
        )
        submitter = Submitter(
            self.client,
            self.profile,
            patience=self._submit_patience,
            clock=self._clock,
            sleep=self._sleep,
        )
        made = submitter.submit(request)
        return Observation(
            state=State.RUNNING,
            started_at=self.job(paths).first_at,
            detail=_submitted(made, key),
        )

    def _exclude(self, spec: RunSpec) -> tuple[str, ...]:
        """Return the option that keeps the job off the site's and the quarantined nodes."""
        if not self.quarantine.active():
            return ()  # the script names the site's own
        try:
            there = [node.name for node in self.client.sinfo_nodes()]
        except SlurmError as error:
            LOG.warning("submitting without leaving out bad nodes: %s", error)
            return ()
        bad = self.quarantine.exclude(there, spec.nodes)
        if not bad:
            return ()
        LOG.info("leaving out nodes %s", ", ".join(bad))
        return (f"--exclude={','.join(dict.fromkeys((*self._slurm.exclude_nodes, *bad)))}",)

    # -- looking

    def _look(self, paths: RunPaths, job: RunJob) -> Observation:
        if job.attempt is None:
            return Observation(state=State.NOT_STARTED)
        verdict = job.verdict
        if verdict is None and not job.submitted:
            return Observation(
                state=State.UNKNOWN,
                started_at=job.first_at,
                detail="may have been submitted; the next try searches for its job",
            )
        if verdict is None:
            try:
                verdict = self._ask(target_of(job, paths, self.profile.cluster))
            except SlurmError as error:
                if isinstance(error, ConfigurationError):
                    raise
                return Observation(
                    state=State.UNKNOWN, started_at=job.first_at, detail=f"is not known: {error}"
                )
            if verdict.is_final:
                keep_verdict(paths, job.attempt.key, verdict)
        return interpret(self._slurm, paths, job, verdict)

    def _ask(self, target: Target) -> Verdict:
        """Ask once, going on from what a watcher has seen."""
        files = SharedRunFiles()
        rounds = Rounds(self.client, self.profile, files, patience=self._patience)
        watched = {target: rounds.begin(target)}
        rounds.round(watched, self._clock())
        verdict = watched[target].verdict
        if verdict is None:
            raise SlurmError(f"asking about job {target.label} gave no verdict")
        if not verdict.is_final:
            # A poller counts in memory; whoever asks once a try must count on disk.
            files.save(watched[target].evidence)
        return verdict

    # -- ending

    def _end(self, paths: RunPaths, job: RunJob, why: str, grace_s: float) -> None:
        target = target_of(job, paths, "")
        report = cancel(
            self.client, [target], sleep=self._sleep, pauses_s=_within(grace_s, _PAUSES_S)
        )
        if not report.complete:
            raise UnavailableError(
                f"run {paths.run_id}: job {target.label} ({target.name}) was told to end and still "
                f"waits or runs: {report.error or 'the controller shows it'}; trying again later"
            )
        verdict = Verdict(
            kind=Kind.FINAL,
            identity=JobIdentity(cluster="", job_id=target.job_id, submitted=target.submitted),
            why=f"cancelled: {why}",
            state="CANCELLED",
            outcome=Outcome.CANCELLED,
            sources=("scancel",),
        )
        keep_verdict(paths, target.name, verdict)

    # -- accounting

    def _accounted(
        self, paths: RunPaths, jobs: set[int], noted: Sequence[JobUsage]
    ) -> tuple[JobUsage, ...]:
        if not self.profile.plan.use_sacct:
            return ()
        names = {attempt.key for attempt in _attempts(paths)}
        return usage_of(
            noted,
            jobs,
            ask=lambda ids: [row for row in self.client.usage(ids) if row.name in names],
            cluster=self.profile.cluster,
            sleep=self._sleep,
        )


def _attempts(paths: RunPaths) -> Sequence[Attempt]:
    return JournalFile(paths.journal).read().attempts


def _within(limit_s: float, pauses_s: Sequence[float]) -> tuple[float, ...]:
    """Return as many of *pauses_s* as fit into *limit_s*, one at least."""
    chosen = [pauses_s[0]]
    for pause in pauses_s[1:]:
        if sum(chosen) + pause > limit_s:
            break
        chosen.append(pause)
    return tuple(chosen)


def _submitted(made: Submission, key: JobKey) -> str:
    how = "found as" if made.adopted else "submitted as"
    more = f", submission {key.generation + 1}" if key.generation else ""
    return f"{how} job {made.target.label} on cluster {made.target.cluster}{more}"
