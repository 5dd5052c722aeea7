"""One round of watching: ask, fold, judge. Blocking and without asyncio; runs in a thread.

A round costs one squeue for all jobs. Accounting and scontrol are asked about jobs that vanished
from it only, in batches, and only when the budget has room.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainyard.slurm import evidence as fold
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.errors import SlurmError
from trainyard.slurm.evidence import Evidence, Target, by_job, select
from trainyard.slurm.judge import judge
from trainyard.slurm.profile import ClusterProfile
from trainyard.slurm.records import JobRecord
from trainyard.slurm.runfiles import RunFiles
from trainyard.slurm.states import Phase
from trainyard.slurm.verdict import Patience, Verdict

LOG = logging.getLogger(__name__)
_ACCOUNTING_PAUSES_S = (0.0, 20.0, 60.0)
_ACCOUNTING_DOWN_S = 60.0
_DENIALS = 4
"""Jobs asked about with scontrol in one round at most."""


@dataclass(kw_only=True, slots=True)
class Watched:
    """What the rounds keep of one target."""

    evidence: Evidence
    """All that was seen."""
    verdict: Verdict | None = None
    """The last judgement."""
    asked_accounting: int = 0
    """How often accounting was asked since it vanished."""
    accounting_due: float = 0.0
    """Our time from which it may be asked again."""
    saved: Evidence | None = None
    """What was kept on disk last."""


@dataclass(kw_only=True, slots=True)
class Round:
    """What one round found."""

    changed: list[tuple[Target, Verdict]] = field(default_factory=list)
    """Targets whose verdict says something new."""
    reachable: bool = True
    """Whether the controller answered."""
    error: str = ""
    """What it said otherwise."""
    asked_s: float = 0.0
    """Seconds squeue took."""


class Rounds:
    """Watches any number of targets on one cluster; not thread-safe: one round at a time."""

    def __init__(
        self,
        client: SlurmClient,
        profile: ClusterProfile,
        files: RunFiles,
        *,
        patience: Patience | None = None,
    ) -> None:
        """Ask through *client* and judge by *profile* and *patience*."""
        self._client = client
        self._profile = profile
        self._files = files
        self._patience = patience or Patience()
        self._accounting_down_until = 0.0

    def begin(self, target: Target) -> Watched:
        """Return a target's entry, going on from what an earlier watcher kept."""
        known = self._files.load(target)
        return Watched(evidence=known or Evidence(target=target), saved=known)

    def round(self, watched: Mapping[Target, Watched], now: float) -> Round:
        """Ask once about all of *watched*, update the entries and return what is new."""
        result = Round()
        try:
            records = self._ask(watched, now)
        except SlurmError as error:
            result.reachable, result.error = False, str(error)
            for entry in watched.values():
                entry.evidence = fold.unreachable(entry.evidence, now)
        else:
            self._fold_controller(watched, records, now)
        # Accounting answers for all at once and scontrol for one: the budget is for it first.
        self._ask_accounting(watched, now)
        if result.reachable:
            self._confirm(watched, now)
        for target, entry in watched.items():
            self._look(entry)
            self._judge(target, entry, now, result)
        return result

    # -- the controller

    def _ask(self, watched: Mapping[Target, Watched], now: float) -> dict[int, list[JobRecord]]:
        """Return the controller's records by job id; an answer that hides jobs is an error."""
        ids = {target.job_id for target in watched}
        found = dict(by_job(self._client.squeue(jobs=ids)))
        present = [target for target, entry in watched.items() if _was_present(entry.evidence)]
        vanished = [
            target for target in present if not select(found.get(target.job_id, ()), target)
        ]
        if not vanished or len(vanished) * 2 < len(present):
            return found
        # Half of all jobs gone at once is how a hiccup looks. scontrol says "Invalid job id" in so
        # many words when a job is really gone; that one answer decides whether squeue is believed.
        sample = vanished[-1]
        shown = select(self._client.show_job(sample.job_id), sample)
        if shown and shown[-1].rule.phase is not Phase.ENDED:
            raise _hiccup(sample, len(vanished))
        if shown:
            found.setdefault(sample.job_id, []).extend(shown)
        else:
            watched[sample].evidence = fold.denied(watched[sample].evidence, now)
        return found

    @staticmethod
    def _fold_controller(
        watched: Mapping[Target, Watched], records: Mapping[int, Sequence[JobRecord]], now: float
    ) -> None:
        for target, entry in watched.items():
            attempts = select(records.get(target.job_id, ()), target)
            if not attempts:
                entry.evidence = fold.absent(entry.evidence, now)
                continue
            entry.evidence = fold.seen(entry.evidence, attempts[-1], now)
            entry.asked_accounting, entry.accounting_due = 0, 0.0

    def _confirm(self, watched: Mapping[Target, Watched], now: float) -> None:
        """Ask scontrol about few jobs each round: is it really gone, may it be requeued."""
        due = [target for target, entry in watched.items() if self._needs_scontrol(entry, now)]
        for target in due[:_DENIALS]:
            if self._client.budget.wait_s() > 0:
                return
            entry = watched[target]
            try:
                shown = select(self._client.show_job(target.job_id), target)
            except SlurmError as error:
                LOG.info("scontrol show job %s: %s", target.label, error)
                return
            add = fold.seen(entry.evidence, shown[-1], now) if shown else None
            entry.evidence = add or fold.denied(entry.evidence, now)

    def _needs_scontrol(self, entry: Watched, now: float) -> bool:
        known = entry.evidence
        if known.absences:
            waited = now - (known.absent_since or now)
            proven = known.exit is not None or known.accounting is not None
            # What is proven otherwise needs no denial before the deadline comes near.
            return not known.denied and (not proven or waited >= self._patience.absence_s / 2)
        record = known.controller
        return record is not None and record.state == "PREEMPTED" and record.requeue is None

    # -- accounting

    def _ask_accounting(self, watched: Mapping[Target, Watched], now: float) -> None:
        if not self._profile.plan.use_sacct or now < self._accounting_down_until:
            return
        due = [
            target
            for target, entry in watched.items()
            if entry.evidence.absences and now >= entry.accounting_due
        ]
        if not due or self._client.budget.wait_s() > 0:
            return
        days = 2 + max(_age_days(watched[target].evidence, now) for target in due)
        try:
            answer = self._client.sacct(jobs={target.job_id for target in due}, since_days=days)
        except SlurmError as error:
            LOG.warning("%s", error)
            self._accounting_down_until = now + _ACCOUNTING_DOWN_S
            return
        found = by_job(answer)
        for target in due:
            entry = watched[target]
            attempts = select(found.get(target.job_id, ()), target)
            entry.evidence = fold.accounted(entry.evidence, attempts, now)
            entry.asked_accounting += 1
            pause = _ACCOUNTING_PAUSES_S[min(entry.asked_accounting, len(_ACCOUNTING_PAUSES_S) - 1)]
            entry.accounting_due = now + pause

    # -- the job's own files, and judgement

    def _look(self, entry: Watched) -> None:
        known = entry.evidence
        over = known.controller is not None and known.controller.rule.phase is Phase.ENDED
        if over or known.absences:
            entry.evidence = fold.looked(known, self._files.exit_file(known.target))

    def _judge(self, target: Target, entry: Watched, now: float, result: Round) -> None:
        verdict = judge(entry.evidence, now, self._profile, self._patience)
        if entry.verdict is None or _news(entry.verdict) != _news(verdict):
            result.changed.append((target, verdict))
        entry.verdict = verdict
        if not verdict.is_final and _worth_keeping(entry.evidence, entry.saved):
            self._files.save(entry.evidence)
            entry.saved = entry.evidence


def _was_present(known: Evidence) -> bool:
    return known.controller is not None and not known.absences


def _hiccup(sample: Target, vanished: int) -> SlurmError:
    return SlurmError(
        f"squeue did not print {vanished} jobs at once, but scontrol still shows job "
        f"{sample.label}: the answer is not used"
    )


def _age_days(known: Evidence, now: float) -> int:
    """Return the days since submission, generously: accounting looks back at least two more."""
    submitted = known.target.submitted or (known.controller.submitted if known.controller else now)
    return max(0, int((now - submitted) // 86400) + 1)


def _news(verdict: Verdict) -> tuple[object, ...]:
    return (
        verdict.kind,
        verdict.outcome,
        verdict.state,
        verdict.reason,
        verdict.nodes,
        verdict.taints,
        verdict.identity,
        verdict.expected_start,
    )


def _worth_keeping(known: Evidence, saved: Evidence | None) -> bool:
    """Return whether a restarted watcher would lose a deadline, an attempt or a taint."""
    return _lasting(known) != (_lasting(saved) if saved else (None, None, False, None, 0, ()))


def _lasting(known: Evidence) -> tuple[object, ...]:
    return (
        known.absent_since,
        known.ended_since,
        known.denied,
        known.exit,
        known.restarts,
        known.taints,
    )
