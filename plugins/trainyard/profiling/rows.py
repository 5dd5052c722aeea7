"""From an analysis to the row that the results database keeps. Pure but for the clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trainyard.store.profiles import Interval, ProfileRow, RecoverableRow, ShareRow

if TYPE_CHECKING:
    from trainyard.analysis.statistics import Estimate
    from trainyard.profile.result import ProfileAnalysis
    from trainyard.profiling.collect import Profiled
    from trainyard.study import StudyFile


def interval_of(found: Estimate | None) -> Interval:
    """Return the number and the ends of *found*; empty for None."""
    if found is None:
        return Interval()
    return Interval(value=found.value, low=found.low, high=found.high)


def row_of(study: StudyFile, found: Profiled, *, report_path: str) -> ProfileRow:
    """Return the row of the profile that the verdict rests on; its files are not known yet."""
    analysis, verdict = found.analysis, found.analysis.verdict
    slowest = max(analysis.ranks, key=lambda item: item.step_ms.value)
    tried = next((item for item in verdict.suggestions if item.field), None)
    return ProfileRow(
        run_id=found.member.row.run_id,
        dag_id=study.dag_id,
        dag_run_id=study.dag_run_id,
        profiler=found.member.row.spec.profiler.value,
        mode=analysis.mode.value,
        ranks=len(analysis.ranks),
        steps=len(analysis.ranks[0].windows.start),
        bound=verdict.bound.value,
        headline=verdict.headline,
        slow_rank=verdict.slow_rank,
        controls_bound=verdict.controls_bound.value if verdict.controls_bound else "",
        step_ms=interval_of(slowest.step_ms),
        outside=interval_of(found.overhead.outside),
        inside=interval_of(found.overhead.inside),
        pairs=found.overhead.pairs,
        suggestion_field=tried.field if tried else "",
        suggestion_from=tried.current if tried else "",
        suggestion_to=tried.proposed if tried else "",
        suggestion_why=tried.why if tried else "",
        report_path=report_path,
        report_uri="",
        analysed_at=datetime.now(UTC).isoformat(),
        shares=_shares(analysis),
        recoverable=tuple(
            RecoverableRow(name=item.name, ms=interval_of(item.ms), how=item.how)
            for item in verdict.recoverable
        ),
    )


def _shares(analysis: ProfileAnalysis) -> tuple[ShareRow, ...]:
    together = [
        ShareRow(rank=None, kind="class", name=part.value, share=interval_of(share))
        for part, share in analysis.verdict.shares.items()
    ]
    apart = [
        ShareRow(rank=item.rank, kind="fraction", name=name, share=interval_of(share))
        for item in analysis.ranks
        for name, share in item.fractions.items()
    ]
    return (*together, *apart)
