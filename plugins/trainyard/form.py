"""From a trigger form's values to typed study parameters. Free of Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from enum import StrEnum
from typing import Any

from trainer.contract import (
    Control,
    Dataset,
    Device,
    Model,
    Precision,
    Profiler,
    Scaling,
    Stall,
)
from trainyard.errors import ConfigurationError
from trainyard.presets import PRESETS, Preset, StudyParameters
from trainyard.sites import Site

_ENUMS: dict[str, type[StrEnum]] = {
    "dataset": Dataset,
    "model": Model,
    "precision": Precision,
    "device": Device,
    "profiler": Profiler,
    "stall": Stall,
}
_ENUM_LISTS: dict[str, type[StrEnum]] = {"modes": Scaling, "controls": Control}
NONE = "none"
"""Choice of a list that means: leave all of them out. An empty list means: as the preset has it."""
_NUMBER_LISTS = ("ranks", "global_batches")
_OVERRIDES = frozenset(item.name for item in fields(StudyParameters)) - {"preset", "dataset_digest"}


def study_parameters(
    values: Mapping[str, Any], site: Site, *, dataset_digest: str
) -> StudyParameters:
    """Return the preset that *values* names, changed by every other value that is not empty.

    Values that are no study parameter (the site, a title) are left to others. Raises
    ``ConfigurationError`` naming the value and the choices.
    """
    preset = _member(Preset, "preset", values.get("preset", Preset.DEMO))
    base = PRESETS[preset]()
    given = {
        name: _typed(name, value)
        for name, value in values.items()
        if name in _OVERRIDES and value not in (None, "", [])
    }
    if "epochs" in given and "steps" not in given:
        given["steps"] = 0
    if "steps" in given and "epochs" not in given:
        given["epochs"] = 0
    if "ranks" not in given:
        given["ranks"] = _ranks_that_fit(base.ranks, site)
    return replace(base, **given, dataset_digest=dataset_digest)


def _ranks_that_fit(ranks: tuple[int, ...], site: Site) -> tuple[int, ...]:
    """Return the preset's rank counts that *site* takes; a chosen one is never left out."""
    return tuple(count for count in ranks if count <= site.largest_ranks) or (1,)


def _typed(name: str, value: Any) -> Any:
    if name == "dataset":
        value = str(value).partition("@")[0]  # which version it is, the digest says
    if name in _ENUMS:
        return _member(_ENUMS[name], name, value)
    if name in _ENUM_LISTS:
        chosen = [item for item in value if item != NONE]
        return tuple(_member(_ENUM_LISTS[name], name, item) for item in chosen)
    if name in _NUMBER_LISTS:
        return tuple(_number(name, item) for item in value)
    return value


def _member(kind: type[StrEnum], name: str, value: object) -> Any:
    try:
        return kind(str(value))
    except ValueError as error:
        raise ConfigurationError(f"{name} = {value!r}; choose from {', '.join(kind)}") from error


def _number(name: str, value: object) -> int:
    try:
        return int(str(value))
    except ValueError as error:
        raise ConfigurationError(f"{name}: {value!r} must be a whole number") from error
