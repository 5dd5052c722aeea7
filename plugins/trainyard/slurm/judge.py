"""``judge``: what may be concluded from what was seen. Pure; the rules of docs/slurm-states.md.

UNKNOWN is never a verdict. A final verdict rests on two sources that agree: a record (controller
or accounting) and what the job's wrapper left behind; or a confirmed absence and the exit code.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainyard.slurm.evidence import Evidence
from trainyard.slurm.profile import ClusterProfile
from trainyard.slurm.reasons import Hope, pending_reason
from trainyard.slurm.records import JobRecord
from trainyard.slurm.states import Outcome, Phase
from trainyard.slurm.verdict import Kind, Patience, Verdict


def judge(
    evidence: Evidence, now: float, profile: ClusterProfile, patience: Patience | None = None
) -> Verdict:
    """Return what may be concluded from *evidence* at *now* (our clock, as in the evidence)."""
    case = _Case(evidence=evidence, now=now, profile=profile, patience=patience or Patience())
    if evidence.absences or evidence.denied:
        return case.absent()
    if evidence.controller is None:
        why = (
            "the controller has not answered yet" if evidence.unreachable_since else "not seen yet"
        )
        return case.verdict(Kind.UNKNOWN, why)
    return case.present(evidence.controller)


@dataclass(kw_only=True, slots=True, frozen=True)
class _Case:
    """One judgement: evidence, time and rules at hand."""

    evidence: Evidence
    now: float
    profile: ClusterProfile
    patience: Patience

    # -- the controller shows the job

    def present(self, record: JobRecord) -> Verdict:
        if record.rule.phase is Phase.ENDED:
            if record.state == "PREEMPTED" and self.profile.preempted_comes_back(record):
                return self.verdict(
                    Kind.ENDING, "preempted; this cluster requeues, so it is waited for", record
                )
            return self.ended(record)
        if self.evidence.unreachable_since is not None:
            for_s = self.now - self.evidence.unreachable_since
            return self.verdict(
                Kind.UNKNOWN,
                f"the controller does not answer for {for_s:.0f} s; last seen {record.state}",
                record,
            )
        if record.rule.phase is Phase.WAITING:
            return self.waiting(record)
        kind = Kind.RUNNING if record.rule.phase is Phase.RUNNING else Kind.ENDING
        return self.verdict(kind, f"{record.state}: {record.rule.meaning}", record)

    def waiting(self, record: JobRecord) -> Verdict:
        reason = pending_reason(record.reason)
        stands_s = self.now - (self.evidence.reason_since or self.now)
        never = reason.hope is Hope.NEVER and stands_s >= self.patience.never_s
        held = record.state in {"REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
        fix = reason.fix or (pending_reason("JobHeldUser").fix if held else "")
        text = f"{record.state.lower()}: {reason.name}" + (f"; {fix}" if fix else "")
        return self.verdict(
            Kind.STUCK if never else Kind.WAITING,
            f"will never start: {text}" if never else text,
            record,
            reason=record.reason,
            fix=fix,
            expected_start=record.started,
        )

    # -- a record says that the attempt is over

    def ended(self, record: JobRecord) -> Verdict:
        outcome = record.rule.outcome or Outcome.FAILED
        code = self.evidence.exit.code if self.evidence.exit else None
        if code is None:
            return self.ended_silently(record, outcome)
        if (code == 0) == (outcome is Outcome.SUCCEEDED):
            return self.final(record, outcome, f"{record.state}, exit code {code}")
        return self.disagreement(
            record, f"Slurm says {record.state}, the wrapper wrote exit code {code}"
        )

    def ended_silently(self, record: JobRecord, outcome: Outcome) -> Verdict:
        """Judge an end without exit-code file: a killed wrapper writes none, a good one does."""
        if outcome is Outcome.SUCCEEDED:
            return self.disagreement(
                record,
                f"Slurm says COMPLETED, and {self.evidence.target.run_dir or 'the run'} holds no "
                "exit code: the run folder is not shared with this host, or the script had no "
                "wrapper",
                self.patience.success_file_s,
            )
        never_ran = not record.nodes and outcome is not Outcome.FAILED
        needed_s = 0.0 if never_ran else self.patience.exit_file_s
        # Having forgotten a job that was over is one more way of saying that it is.
        answers = self.evidence.ended_answers + self.evidence.absences
        looked = self.evidence.looks >= (1 if never_ran else 2)
        if self.stands_s() >= needed_s and looked and answers >= 2:  # noqa: PLR2004 - "twice"
            detail = "before it ran" if never_ran else "its wrapper wrote no exit code"
            return self.final(record, outcome, f"{record.state}, {detail}")
        return self.verdict(Kind.ENDING, f"{record.state}; looking for its exit code", record)

    def disagreement(
        self, record: JobRecord, what: str, patience_s: float | None = None
    ) -> Verdict:
        limit_s = self.patience.exit_file_s if patience_s is None else patience_s
        enough = self.evidence.ended_answers + self.evidence.absences >= self.patience.answers
        if self.stands_s() >= limit_s and enough:
            return self.final(record, Outcome.CONTRADICTED, what)
        return self.verdict(Kind.ENDING, f"{what}; waiting for agreement", record)

    def stands_s(self) -> float:
        since = self.evidence.ended_since
        return 0.0 if since is None else self.now - since

    # -- the controller does not have the job

    def absent(self) -> Verdict:
        record = self.last_word()
        if record is not None and record.rule.phase is Phase.ENDED:
            waits = record.rule.comes_back and not self.never_comes_back(record)
            if not waits and self.gone_or_proven(record):
                return self.ended(record)
            if waits and self.deadline_passed():
                return self.ended(record)
        if self.exit_code_decides(record) and self.evidence.exit is not None:
            code = self.evidence.exit.code
            outcome = Outcome.SUCCEEDED if code == 0 else Outcome.FAILED
            return self.final(
                record, outcome, f"gone from the controller, exit code {code}", ("absence",)
            )
        if self.deadline_passed() and self.accounting_is_done(record):
            resubmit = record is not None and record.rule.comes_back
            return self.final(
                record,
                Outcome.LOST,
                "in no record and without exit code; nobody can say how it ended",
                ("absence", "controller"),
                resubmit=resubmit,
            )
        return self.verdict(Kind.UNKNOWN, self.absence_text(record), record)

    def last_word(self) -> JobRecord | None:
        """Return the newest attempt's last record: accounting's, or the controller's own of an end.

        What the controller said before it forgot the job counts where accounting says nothing, or
        nothing newer; that the job was alive then does not.
        """
        record, shown = self.evidence.accounting, self.evidence.controller
        over = shown if shown and shown.rule.phase is Phase.ENDED else None
        if record is None:
            return over
        if shown and record.submitted < shown.submitted:
            return over
        return over if over and record.rule.phase is not Phase.ENDED else record

    def never_comes_back(self, record: JobRecord) -> bool:
        known = self.evidence.controller
        if known is not None and known.submitted == record.submitted and known.requeue is False:
            return True
        return record.state == "PREEMPTED" and not self.profile.preempted_comes_back(record)

    def exit_code_decides(self, record: JobRecord | None) -> bool:
        """Return whether the wrapper's word and the controller's "no" are all that will come.

        A 0 needs nobody else. Another code may be the answer to a signal: accounting, where there
        is one, is given a while to say whether the job failed or was cancelled or out of time.
        """
        if self.evidence.exit is None or not self.is_gone() or self.may_come_back(record):
            return False
        if self.evidence.exit.code == 0 or not self.profile.plan.use_sacct:
            return True
        waited_s = self.now - (self.evidence.absent_since or self.now)
        answered = self.evidence.accounting_answers >= 2  # noqa: PLR2004 - "twice"
        return answered or waited_s >= self.patience.absence_s

    def may_come_back(self, record: JobRecord | None) -> bool:
        return record is not None and record.rule.comes_back and not self.deadline_passed()

    def gone_or_proven(self, record: JobRecord) -> bool:
        code = self.evidence.exit.code if self.evidence.exit else None
        proven = code is not None and (code == 0) == (record.rule.outcome is Outcome.SUCCEEDED)
        return proven or self.is_gone()

    def is_gone(self) -> bool:
        return self.evidence.denied or self.evidence.absences >= self.patience.answers

    def deadline_passed(self) -> bool:
        since = self.evidence.absent_since
        return (
            since is not None
            and self.now - since >= self.patience.absence_s
            and self.evidence.absences >= self.patience.answers
            and self.evidence.denied
            and self.evidence.looks >= (0 if self.evidence.exit else 2)
        )

    def accounting_is_done(self, record: JobRecord | None) -> bool:
        """Return whether nothing more is to be expected from accounting."""
        if not self.profile.plan.use_sacct:
            return True
        late = self.now - (self.evidence.absent_since or self.now) >= self.patience.accounting_s
        final = record is None or record.rule.phase is Phase.ENDED or record.rule.comes_back
        return late or (final and self.evidence.accounting_answers >= 2)  # noqa: PLR2004 - "twice"

    def absence_text(self, record: JobRecord | None) -> str:
        for_s = self.now - (self.evidence.absent_since or self.now)
        says = f"; accounting says {record.state}" if record else ""
        return (
            f"not in the controller for {for_s:.0f} s ({self.evidence.absences} answers{says}); "
            f"waiting {self.patience.absence_s:.0f} s for it to come back or be proven over"
        )

    # -- the form of every verdict

    def final(
        self,
        record: JobRecord | None,
        outcome: Outcome,
        why: str,
        sources: tuple[str, ...] = (),
        *,
        resubmit: bool = False,
    ) -> Verdict:
        again = outcome in {Outcome.PREEMPTED, Outcome.NODE_FAIL, Outcome.BOOT_FAIL}
        found = (*((record.source.value,) if record else ()), *sources)
        file = ("exit_code",) if self.evidence.exit else ("no exit_code",)
        return self.verdict(
            Kind.FINAL,
            why,
            record,
            outcome=outcome,
            resubmit=resubmit or again,
            sources=(*found, *file),
        )

    def verdict(
        self, kind: Kind, why: str, record: JobRecord | None = None, **more: object
    ) -> Verdict:
        shown = record or self.evidence.controller
        code = self.evidence.exit.code if self.evidence.exit else None
        values: dict[str, object] = {
            "state": shown.state if shown else "",
            "nodes": shown.nodes if shown else "",
            "exit_code": code if code is not None else (shown.exit_code if shown else None),
            "exit_signal": shown.exit_signal if shown else None,
        }
        values |= more
        return Verdict(
            kind=kind,
            identity=self.evidence.identity,
            why=why,
            taints=self.evidence.taints,
            **values,  # type: ignore[arg-type]
        )
