"""The first suggestion of a profile, made into runs. Pure but for reading the clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from trainer.contract import ContractError, RunSpec
from trainyard.errors import ConfigurationError
from trainyard.placement import spread
from trainyard.study import StudyFile, launch_of

TRIED = "tried"
"""Name of the plan beside the one it changes."""


def changed(spec: RunSpec, field: str, proposed: str) -> RunSpec:
    """Return *spec* with *field* set to what a suggestion says as text.

    The global batch follows ``per_rank_batch`` and ``accumulation``. Raises ``ConfigurationError``
    when the spec has no such field or refuses the value.
    """
    if not hasattr(spec, field):
        raise ConfigurationError(f"suggestion {field!r} is no field of a run; nothing can be tried")
    try:
        given: dict[str, Any] = {field: _typed(getattr(spec, field), proposed)}
        if field in {"per_rank_batch", "accumulation"}:
            factors = {"per_rank_batch": spec.per_rank_batch, "accumulation": spec.accumulation}
            factors |= given
            product = factors["per_rank_batch"] * factors["accumulation"]
            given["global_batch"] = product * spec.ranks
        return replace(spec, **given)
    except (ValueError, ContractError) as error:
        raise ConfigurationError(f"suggestion {field} = {proposed}: {error}") from error


def _typed(current: Any, proposed: str) -> Any:
    if isinstance(current, bool):
        return {"true": True, "false": False}[proposed]
    if isinstance(current, StrEnum | int | float):
        return type(current)(proposed)
    return proposed


def changed_study(study: StudyFile, field: str, proposed: str, *, task_id: str) -> StudyFile:
    """Return the plan of *study* with one field of every run changed, for the task *task_id*.

    Same pairs, order and seeds, so that before and after differ in that field alone. Raises
    ``ConfigurationError``, also when the site cannot run it.
    """
    runs = tuple(
        replace(
            run,
            label=f"{run.label}, {field} = {proposed}",
            spec=changed(run.spec, field, proposed),
        )
        for run in study.plan.runs
    )
    made = replace(
        study,
        task_id=task_id,
        created_at=datetime.now(UTC).isoformat(),
        plan=spread(replace(study.plan, runs=runs), study.site),
    )
    for index in range(len(runs)):
        launch_of(made.run(index))
    return made
