"""Reading one table of the site file into a record: strict, with the choices in every error. Pure.

TOML knows no enum members and no tuples; a record's defaults say what its fields hold.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any

from trainyard.errors import ConfigurationError

_KINDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list of texts",
}


def known(table: object, fields: Collection[str], where: str) -> dict[str, Any]:
    """Return *table* as a dictionary; raise when it is none or has keys beside *fields*."""
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"{where} = {table!r} must be a table [{where}]")
    for key in table:
        if key not in fields:
            raise ConfigurationError(
                f"{where}.{key} is no field; choose from {', '.join(sorted(fields))}"
            )
    return dict(table)


def typed(value: object, default: object, where: str) -> Any:
    """Return a TOML value in the type of the field's *default*, lists as tuples; else raise."""
    if isinstance(default, StrEnum):
        return member(type(default), value, where)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = tuple(value)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise ConfigurationError(f"{where} = {value!r}: must be {_KINDS.get(type(default))}")
    return value


def member(choices: type[StrEnum], value: object, where: str) -> StrEnum:
    """Return the member of *choices* that *value* names, or raise naming them all."""
    try:
        return choices(str(value))
    except ValueError as error:
        raise ConfigurationError(
            f"{where} = {value!r}; choose from {', '.join(choices)}"
        ) from error
