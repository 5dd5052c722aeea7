"""Sanity checks: did the run do what it claims. A failed one voids every number of the run."""

from __future__ import annotations

import math

from trainer.contract import Check, Epoch, RunSpec
from trainer.progress import Progress


def verdicts(
    spec: RunSpec,
    progress: Progress,
    total_steps: int,
    hashes: list[str],
    finite: list[bool],
) -> tuple[Check, ...]:
    """Return the checks of a run that came to its end.

    *hashes* and *finite* hold, per rank, the parameter hash and whether all parameters are finite.
    """
    checks = [
        reached_end(progress.step, total_steps),
        ranks_agree(hashes),
        loss_finite(progress.epochs, finite),
        samples_exactly_once(progress),
    ]
    if spec.loss_reference is not None:
        checks.append(near_reference(spec, progress.first_window_loss))
    return tuple(checks)


def reached_end(step: int, total: int) -> Check:
    """Check that all planned optimizer steps were made."""
    return Check(
        name="reached_planned_end", passed=step == total, detail=f"{step} of {total} steps"
    )


def ranks_agree(hashes: list[str]) -> Check:
    """Check that all ranks ended with the same parameters, bit for bit."""
    apart = [rank for rank, value in enumerate(hashes) if value != hashes[0]]
    detail = f"{len(hashes)} ranks, hash {hashes[0][:16]}"
    if apart:
        detail += f"; ranks {apart} differ from rank 0"
    return Check(name="ranks_agree", passed=not apart, detail=detail)


def loss_finite(epochs: list[Epoch], finite: list[bool]) -> Check:
    """Check that no epoch's loss and no parameter is NaN or infinite."""
    bad = [epoch.index for epoch in epochs if not math.isfinite(epoch.train_loss)]
    detail = f"last epoch's loss {epochs[-1].train_loss:.6g}" if epochs else "no epoch"
    if bad:
        detail += f"; epochs {bad} have none"
    if not all(finite):
        detail += "; parameters hold NaN or infinity"
    return Check(name="loss_finite", passed=bool(epochs) and not bad and all(finite), detail=detail)


def samples_exactly_once(progress: Progress) -> Check:
    """Check that every epoch trained every sample once, a cut-off last one none twice."""
    good = not progress.miscounts and progress.verified_epochs > 0
    detail = "; ".join(progress.miscounts) or f"{progress.verified_epochs} epochs counted"
    return Check(name="samples_exactly_once", passed=good, detail=detail)


def near_reference(spec: RunSpec, loss: float | None) -> Check:
    """Check the first window's loss against the single-process fp32 reference."""
    reference = spec.loss_reference or 0.0
    if loss is None:
        return Check(name="loss_reference", passed=False, detail="no window was timed")
    distance = abs(loss - reference) / abs(reference) if reference else math.inf
    return Check(
        name="loss_reference",
        passed=distance <= spec.loss_tolerance,
        detail=f"{loss:.6g} is {distance:.2%} from {reference:.6g}; "
        f"limit {spec.loss_tolerance:.2%}",
    )
