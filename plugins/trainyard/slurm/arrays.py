"""Job arrays: each element is watched and judged on its own; this is what they make together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from trainyard.slurm.states import Outcome, Taint
from trainyard.slurm.verdict import Kind, Verdict

_ALIVE = (Kind.STUCK, Kind.UNKNOWN, Kind.RUNNING, Kind.ENDING, Kind.WAITING)
_WORST = (
    Outcome.CONTRADICTED,
    Outcome.LOST,
    Outcome.FAILED,
    Outcome.OUT_OF_MEMORY,
    Outcome.TIMEOUT,
    Outcome.DEADLINE,
    Outcome.NODE_FAIL,
    Outcome.BOOT_FAIL,
    Outcome.PREEMPTED,
    Outcome.CANCELLED,
    Outcome.REVOKED,
    Outcome.SUCCEEDED,
)


@dataclass(kw_only=True, slots=True, frozen=True)
class ArrayVerdict:
    """All elements of an array together."""

    kind: Kind
    """FINAL when every element is; else what asks most for attention among the others."""
    outcome: Outcome | None
    """The worst outcome once all are final: one failed element is not hidden by the others."""
    counts: tuple[tuple[str, int], ...]
    """How many elements are in each kind or outcome, by name."""
    failed: tuple[int, ...]
    """Indices whose outcome is not SUCCEEDED, for a rerun of these alone."""
    taints: tuple[Taint, ...]
    """Taints of any element."""

    @property
    def text(self) -> str:
        """One line such as ``running 3, succeeded 4, waiting 2``."""
        return ", ".join(f"{name} {number}" for name, number in self.counts)


def aggregate(verdicts: Mapping[int, Verdict]) -> ArrayVerdict:
    """Return what the elements' verdicts make together; raises ``ValueError`` without elements."""
    if not verdicts:
        raise ValueError("an array without elements has no verdict")
    names = [(verdict.outcome or verdict.kind).value for verdict in verdicts.values()]
    open_kinds = {verdict.kind for verdict in verdicts.values() if not verdict.is_final}
    outcomes = [verdict.outcome for verdict in verdicts.values() if verdict.outcome]
    return ArrayVerdict(
        kind=min(open_kinds, key=_ALIVE.index) if open_kinds else Kind.FINAL,
        outcome=None if open_kinds else min(outcomes, key=_WORST.index),
        counts=tuple(sorted(Counter(names).items())),
        failed=tuple(
            sorted(
                task
                for task, verdict in verdicts.items()
                if verdict.outcome not in {None, Outcome.SUCCEEDED}
            )
        ),
        taints=tuple(sorted({taint for one in verdicts.values() for taint in one.taints})),
    )
