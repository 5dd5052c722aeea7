"""Suites: named Python functions that return complete, typed plans of training runs.

``SUITES[name](parameters, order_seed)`` is pure: equal arguments give the equal plan, bit for bit,
so that clearing a planning task never changes a study.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from trainer.contract import Control, Profiler, RunSpec, Scaling
from trainyard.errors import ConfigurationError
from trainyard.presets import StudyParameters

MOST_RUNS = 1024
"""Airflow maps a task at most this often ([core] max_map_length)."""


@dataclass(kw_only=True, slots=True, frozen=True)
class PlannedRun:
    """One run of a plan."""

    label: str
    """What a person reads in the task list, for example ``strong n=2 repeat 1``."""
    block: int
    """Block of the random order, from 0; a block holds each configuration once."""
    repeat: int
    """Which repeat of its configuration this is, from 0."""
    spec: RunSpec
    """The complete specification."""


@dataclass(kw_only=True, slots=True, frozen=True)
class StudyPlan:
    """Everything a study will run, in order."""

    suite: str
    """Name of the function that made the plan."""
    parameters: StudyParameters
    """What the function was given."""
    order_seed: int
    """Seed of the order within each block."""
    runs: tuple[PlannedRun, ...]
    """Runs in the order in which they are started."""


def scaling(parameters: StudyParameters, order_seed: int) -> StudyPlan:
    """Return a strong and weak scaling study in a blocked random order.

    Every block holds each configuration once and is shuffled on its own, so that a drift of the
    machine spreads over all configurations (Hoefler & Belli, SC'15, rule 9 on randomisation).
    Raises ``ConfigurationError`` for batches that some number of ranks does not divide.
    """
    configurations = _configurations(parameters)
    order = random.Random(order_seed)  # noqa: S311 - an order to be repeated, not a secret
    runs: list[PlannedRun] = []
    for repeat in range(parameters.repeats):
        block = list(configurations)
        order.shuffle(block)
        runs += [_planned(spec, repeat, parameters.base_seed) for spec in block]
    if parameters.profiler is not Profiler.NONE:
        runs.append(_profiled_last(parameters, configurations))
    _check_size(runs)
    return StudyPlan(
        suite="scaling", parameters=parameters, order_seed=order_seed, runs=tuple(runs)
    )


def single(parameters: StudyParameters, order_seed: int = 0) -> StudyPlan:
    """Return exactly one run: the last of ``ranks`` at the per-rank batch, without controls."""
    ranks = parameters.ranks[-1]
    spec = replace(
        _spec(
            parameters,
            name=f"{parameters.dataset}-n{ranks}",
            mode=Scaling.NONE,
            ranks=ranks,
            per_rank=parameters.per_rank_batch,
        ),
        controls=(),
    )
    runs = (_planned(spec, 0, parameters.base_seed),)
    return StudyPlan(suite="single", parameters=parameters, order_seed=order_seed, runs=runs)


def _profiled_last(parameters: StudyParameters, configurations: tuple[RunSpec, ...]) -> PlannedRun:
    """Return one profiled run of the configuration with most ranks, after all that are measured."""
    _window_beside(parameters)
    largest = max(configurations, key=lambda spec: (spec.ranks, spec.distributed))
    watched = replace(
        under(largest, parameters.profiler),
        scaling=Scaling.NONE,
        profile_steps=parameters.profile_steps,
    )
    planned = _planned(watched, 0, parameters.base_seed)
    return replace(planned, block=parameters.repeats)


def profile(parameters: StudyParameters, order_seed: int = 0) -> StudyPlan:
    """Return pairs of runs: one plain with controls, and the same work under the profiler.

    Every block holds one pair in a random order, so that a drift of the machine does not look like
    the profiler's overhead. Nsight Compute gives counters, not a timeline: with it each block has a
    third run, under torch.profiler. Raises ``ConfigurationError`` without a profiler.
    """
    if parameters.profiler is Profiler.NONE:
        raise ConfigurationError("profiler = 'none': choose torch, nsys or ncu")
    ranks = parameters.ranks[-1]
    plain = replace(
        _spec(
            parameters,
            name=f"plain-n{ranks}",
            mode=Scaling.NONE,
            ranks=ranks,
            per_rank=parameters.per_rank_batch,
        ),
        profile_steps=parameters.profile_steps,
        stall=parameters.stall,
        stall_ms=parameters.stall_ms,
        window_steps=_window_beside(parameters),
    )
    kinds = {parameters.profiler} | (
        {Profiler.TORCH} if parameters.profiler is Profiler.NCU else set()
    )
    specs = [plain, *(under(plain, kind) for kind in sorted(kinds))]
    order = random.Random(order_seed)  # noqa: S311 - an order to be repeated, not a secret
    runs: list[PlannedRun] = []
    for repeat in range(parameters.repeats):
        order.shuffle(specs)
        runs += [_planned(spec, repeat, parameters.base_seed) for spec in specs]
    _check_size(runs)
    return StudyPlan(
        suite="profile", parameters=parameters, order_seed=order_seed, runs=tuple(runs)
    )


def _window_beside(parameters: StudyParameters) -> int:
    """Return the steps of a timed window, shortened so that one fits before the captured steps.

    Raises ``ConfigurationError`` when none does.
    """
    if not parameters.steps:
        return parameters.window_steps
    room = parameters.steps - parameters.warmup_steps - parameters.profile_steps
    if room < 1:
        least = parameters.warmup_steps + parameters.profile_steps + 1
        raise ConfigurationError(
            f"steps = {parameters.steps}: {parameters.warmup_steps} steps of warm-up and "
            f"{parameters.profile_steps} captured ones leave none to time; give {least} at least, "
            "100 for a steady number, or profiler = 'none' for a study without a profile"
        )
    return min(parameters.window_steps, room)


def under(spec: RunSpec, profiler: Profiler) -> RunSpec:
    """Return the work of *spec* under *profiler*; controls stay with runs that nothing watches."""
    name = f"{profiler}-n{spec.ranks}"
    return replace(spec, name=name, profiler=profiler, controls=())


SUITES: dict[str, Callable[[StudyParameters, int], StudyPlan]] = {
    "scaling": scaling,
    "single": single,
    "profile": profile,
}


def _configurations(parameters: StudyParameters) -> tuple[RunSpec, ...]:
    """Return the distinct configurations; one-rank twins of both modes appear once."""
    chosen: dict[str, RunSpec] = {}
    for mode in parameters.modes:
        batches = parameters.global_batches if mode is Scaling.STRONG else (None,)
        for batch in batches:
            for ranks in sorted(parameters.ranks):
                spec = _point(parameters, mode, ranks, batch)
                chosen.setdefault(_work(spec), spec)
    if parameters.base_without_ddp:
        for spec in [spec for spec in chosen.values() if spec.ranks == 1]:
            base = _without_ddp(spec)
            chosen.setdefault(_work(base), base)
    return tuple(chosen.values())


def _work(spec: RunSpec) -> str:
    """Return what *spec* does, without the study mode it was made for."""
    return replace(spec, name="any", scaling=Scaling.NONE).config_id


def _point(
    parameters: StudyParameters, mode: Scaling, ranks: int, global_batch: int | None
) -> RunSpec:
    if global_batch is None:
        per_rank = parameters.per_rank_batch
    else:
        _check_divides(global_batch, ranks)
        per_rank = global_batch // ranks
    name = f"{mode}-b{per_rank * ranks}-n{ranks}"
    return _spec(parameters, name=name, mode=mode, ranks=ranks, per_rank=per_rank)


def _without_ddp(spec: RunSpec) -> RunSpec:
    controls = tuple(control for control in spec.controls if control is not Control.NO_SYNC)
    name = f"base-b{spec.global_batch}-n1"
    return replace(spec, name=name, scaling=Scaling.NONE, distributed=False, controls=controls)


def _spec(
    parameters: StudyParameters, *, name: str, mode: Scaling, ranks: int, per_rank: int
) -> RunSpec:
    return RunSpec(
        name=name,
        model=parameters.model,
        dataset=parameters.dataset,
        dataset_digest=parameters.dataset_digest,
        scaling=mode,
        ranks=ranks,
        per_rank_batch=per_rank,
        global_batch=per_rank * ranks,
        precision=parameters.precision,
        device=parameters.device,
        channels_last=parameters.channels_last,
        epochs=parameters.epochs,
        steps=parameters.steps,
        seed=parameters.base_seed,
        controls=parameters.controls,
        control_windows=parameters.control_windows,
        threads_per_rank=parameters.threads_per_rank,
        loader_workers=parameters.loader_workers,
        learning_rate=parameters.learning_rate,
        warmup_steps=parameters.warmup_steps,
        window_steps=parameters.window_steps,
    )


def _planned(spec: RunSpec, repeat: int, base_seed: int) -> PlannedRun:
    kind = "base" if not spec.distributed else str(spec.scaling)
    kind = "run" if spec.distributed and spec.scaling is Scaling.NONE else kind
    kind = kind if spec.profiler is Profiler.NONE else str(spec.profiler)
    return PlannedRun(
        label=f"{kind} n={spec.ranks} batch={spec.global_batch} repeat {repeat + 1}",
        block=repeat,
        repeat=repeat,
        spec=replace(spec, seed=base_seed + repeat),
    )


def _check_divides(global_batch: int, ranks: int) -> None:
    if global_batch % ranks:
        below = global_batch - global_batch % ranks
        near = [str(batch) for batch in (below, below + ranks) if batch > 0]
        raise ConfigurationError(
            f"global batch {global_batch} cannot be split over {ranks} ranks evenly; "
            f"the nearest that can: {' or '.join(near)}, or leave {ranks} out of ranks"
        )


def _check_size(runs: list[PlannedRun]) -> None:
    if len(runs) > MOST_RUNS:
        raise ConfigurationError(
            f"the plan has {len(runs)} runs; Airflow maps a task at most {MOST_RUNS} times: "
            "choose fewer repeats, ranks or global batches"
        )
