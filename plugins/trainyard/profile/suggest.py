"""Which field of the specification to change next, for what a profile found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainyard.profile.result import Bound, Mode, Suggestion
from trainyard.report.text import count_of

if TYPE_CHECKING:
    from trainer.contract import RunSpec
    from trainyard.profile.result import RankAnalysis

FEW_COLLECTIVES, MANY_COLLECTIVES = 2, 20
"""Per step: with fewer, gradients travel after backward is over; with more, each is too small."""
MOST_WORKERS = 16


def suggestions_for(
    bound: Bound,
    ranks: tuple[RankAnalysis, ...],
    spec: RunSpec | None,
    *,
    slow_rank: int | None,
    collectives_per_step: float | None,
) -> tuple[Suggestion, ...]:
    """Return what to try for a step bound by *bound*, most promising first.

    Only fields that exist are named, and with *spec* only values that differ from its own.
    """
    mode = ranks[0].mode
    found: list[Suggestion | None] = []
    if slow_rank is not None:
        found.append(
            Suggestion(
                field="",
                current="",
                proposed="",
                why=f"No field: run verify_environment on the node of rank {slow_rank} and compare "
                "its clocks, load and memory with the others'",
            )
        )
    if bound is Bound.INPUT:
        found += _input(ranks, spec)
    elif bound is Bound.COMMUNICATION:
        found += _communication(collectives_per_step, spec)
    elif bound is Bound.HOST:
        found += _host(mode, spec)
    else:
        found += _compute(mode, spec)
    return tuple(item for item in found if item is not None)


def _change(spec: RunSpec | None, field: str, proposed: Any, why: str) -> Suggestion | None:
    """Return the suggestion, or None when *spec* already has it."""
    current = "" if spec is None else getattr(spec, field)
    if spec is not None and current == proposed:
        return None
    return Suggestion(field=field, current=_said(current), proposed=_said(proposed), why=why)


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _input(ranks: tuple[RankAnalysis, ...], spec: RunSpec | None) -> list[Suggestion | None]:
    workers = spec.loader_workers if spec is not None else 0
    found = [
        _change(
            spec,
            "loader_workers",
            max(workers, min(MOST_WORKERS, max(2, 2 * workers))),
            "batches are read and augmented beside the step; needs free cores",
        )
    ]
    if spec is not None and workers:
        more = 2 * spec.prefetch_factor
        found.append(
            _change(spec, "prefetch_factor", more, "more batches ready evens out slow reads")
        )
    pageable = [item.pageable for item in ranks if item.pageable is not None]
    if pageable and max(pageable) > 0:
        why = f"{100 * max(pageable):.0f} % of the copied bytes come from pageable memory: they "
        found.insert(0, _change(spec, "pin_memory", True, f"{why}cannot overlap with compute"))
    return found


def _communication(per_step: float | None, spec: RunSpec | None) -> list[Suggestion | None]:
    bucket = spec.bucket_cap_mb if spec is not None else 25
    found: list[Suggestion | None] = []
    if per_step is not None and per_step <= FEW_COLLECTIVES and bucket > 1:
        found.append(
            _change(
                spec,
                "bucket_cap_mb",
                max(1, bucket // 4),
                f"{count_of(round(per_step), 'collective')} a step: smaller buckets start earlier",
            )
        )
    elif per_step is not None and per_step > MANY_COLLECTIVES:
        found.append(
            _change(
                spec,
                "bucket_cap_mb",
                2 * bucket,
                f"{per_step:.0f} collectives a step: larger buckets pay the latency less often",
            )
        )
    double = 2 * (spec.accumulation if spec is not None else 1)
    why = "half as many exchanges per sample; doubles the global batch, so compare accuracy too"
    return [*found, _change(spec, "accumulation", double, why)]


def _host(mode: Mode, spec: RunSpec | None) -> list[Suggestion | None]:
    batch = 2 * spec.per_rank_batch if spec is not None else 0
    if mode is Mode.HOST:
        why = "No field: the step spends the time outside data, forward, backward, optimizer and "
        return [Suggestion(field="", current="", proposed="", why=f"{why}collectives")]
    why = "larger kernels per launch; changes the global batch, so compare accuracy too"
    if spec is None:
        return [Suggestion(field="per_rank_batch", current="", proposed="twice", why=why)]
    return [_change(spec, "per_rank_batch", batch, why)]


def _compute(mode: Mode, spec: RunSpec | None) -> list[Suggestion | None]:
    from trainer.contract import Precision

    found: list[Suggestion | None] = []
    if spec is None or spec.precision is Precision.FP32:
        found.append(
            _change(spec, "precision", Precision.BF16, "half the bytes, and tensor cores on a GPU")
        )
    if mode is Mode.DEVICE:
        found.append(
            _change(
                spec, "channels_last", True, "convolutions use tensor cores without transposing"
            )
        )
    found.append(
        _change(spec, "deterministic", False, "lets the libraries choose their fastest kernels")
    )
    return found
