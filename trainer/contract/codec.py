"""Strict JSON for the records: what a reader does not know, misses or cannot hold is an error.

Standard library only. A record is a frozen dataclass of str, int, float, bool, ``None``-able
values, ``StrEnum`` members, other records and tuples of these; nothing else crosses a process
boundary, so nothing else is supported.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar, Union, get_args, get_origin

Record = TypeVar("Record")


class ContractError(ValueError):
    """A record breaks its contract: the message names the field, the value and the rule."""


def fail(field: str, value: object, rule: str, hint: str = "") -> typing.NoReturn:
    """Raise a ``ContractError`` of one form: field, value, rule, next step."""
    raise ContractError(f"{field} = {value!r}: {rule}" + (f". {hint}" if hint else ""))


def encode(value: object) -> Any:
    """Return *value* as JSON-ready data; NaN and infinities become the strings JSON lacks."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def dumps(record: object, *, indent: int | None = 2) -> str:
    """Return *record* as JSON text with sorted keys, the form that is hashed and stored."""
    return json.dumps(encode(record), indent=indent, sort_keys=True, allow_nan=False)


def digest(record: object, *, without: tuple[str, ...] = ()) -> str:
    """Return the first 16 hex digits of the SHA-256 of the record's sorted JSON."""
    data = {key: item for key, item in encode(record).items() if key not in without}
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def loads(cls: type[Record], text: str | bytes, source: str = "") -> Record:
    """Return the record of type *cls* that *text* holds.

    Raises ``ContractError``, naming *source*, when the text is no JSON (a half-written file, say)
    or does not fit the record.
    """
    where = source or cls.__name__
    try:
        data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except RecursionError as error:
        raise ContractError(f"{where}: nested too deeply to be a {cls.__name__}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        size = len(text)
        raise ContractError(
            f"{where}: not a JSON document ({error}; {size} characters read). "
            "It may be truncated: run the step that writes it again"
        ) from error
    return decode(cls, data, where)


def decode(cls: type[Record], data: object, where: str = "") -> Record:
    """Return the record of type *cls* that JSON-ready *data* describes, or raise."""
    where = where or cls.__name__
    if not isinstance(data, dict):
        fail(where, data, f"must be a JSON object with the fields of {cls.__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    _check_version(fields, data, where)
    for name in data:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            fail(
                f"{where}.{name}",
                data[name],
                f"no such field of {cls.__name__}",
                f"{meant}Fields: {', '.join(sorted(fields))}",
            )
    hints = _hints(cls)
    missing = [name for name, f in fields.items() if name not in data and _is_required(f)]
    if missing:
        raise ContractError(f"{where}: missing {', '.join(missing)}, which {cls.__name__} needs")
    values = {name: _value(hints[name], data[name], f"{where}.{name}") for name in data}
    try:
        return cls(**values)
    except ContractError as error:  # a rule of the record itself: say where the record stands
        raise ContractError(f"{where}: {error}") from error


def check_types(record: object) -> None:
    """Raise ``ContractError`` when a field of *record* holds another type than it declares.

    For records built in Python, where a plain string in place of an enum member would compare
    equal and still fail every ``is``.
    """
    for name, hint in _hints(type(record)).items():
        if not _fits(hint, value := getattr(record, name)):
            kind = getattr(hint, "__name__", str(hint))
            close = ""
            if isinstance(hint, type) and issubclass(hint, enum.Enum):
                close = f"Choose from {', '.join(f'{kind}.{member.name}' for member in hint)}"
            fail(name, value, f"must be {kind}, not {type(value).__name__}", close)


_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


def _fits(hint: Any, value: object) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(option, value) for option in get_args(hint))
    if origin is tuple:
        item = get_args(hint)[0]
        return isinstance(value, tuple) and all(_fits(item, one) for one in value)
    if hint is float:
        return type(value) in {int, float}
    return type(value) is hint if hint in {int, bool} else isinstance(value, hint)


def _no_constant(name: str) -> typing.NoReturn:
    raise json.JSONDecodeError(f"{name} is no JSON", name, 0)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ContractError(f"{', '.join(twice)}: given twice in one JSON object; keep one")
    return data


def _check_version(fields: dict[str, Any], data: dict[str, Any], where: str) -> None:
    known = fields.get("schema_version")
    if known is None:
        return
    found = data.get("schema_version")
    if found != known.default:
        fail(
            f"{where}.schema_version",
            found,
            f"this Trainyard reads version {known.default}",
            "Read it with the Trainyard that wrote it, or run it again",
        )


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        return None if value is None else _value(options[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            fail(where, value, "must be a list")
        item = get_args(hint)[0]
        return tuple(_value(item, one, f"{where}[{i}]") for i, one in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(type, hint), value, where)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _member(hint, value, where)
    return _scalar(hint, value, where)


def _member(hint: type[enum.Enum], value: object, where: str) -> enum.Enum:
    try:
        return hint(value)
    except ValueError:
        choices = ", ".join(str(member.value) for member in hint)
        fail(where, value, f"must be one of {choices}")


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, str) and value in {"nan", "inf", "-inf"}:
        return float(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        fail(where, value, f"must be {_NAMES.get(hint, hint)}, not {type(value).__name__}")
    return value


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
