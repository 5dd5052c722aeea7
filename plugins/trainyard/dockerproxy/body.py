"""Reading a request body so that the proxy and the engine cannot understand it differently."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from trainyard.dockerproxy.refusal import RefusedError

LIMIT_BYTES = 1024**2
"""Most that a body may measure: a thousand times the largest that Trainyard makes."""
_INT64 = 2**63


def strict_json(data: bytes) -> dict[str, Any]:
    """Return the object that *data* holds.

    The engine's decoder takes the last of two equal names and ignores their case, others the
    first: so a repeated name in whatever case is refused, as are numbers that are no whole 64-bit
    ones, NUL and half of a surrogate pair. Raises ``RefusedError`` with status 400.
    """
    try:
        found = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_float=_no_number,
            parse_int=_integer,
        )
        _check_texts(found)
    except RecursionError as error:
        raise _bad("it is nested too deeply") from error
    except ValueError as error:
        raise _bad(f"it is no JSON in UTF-8: {error}") from error
    if not isinstance(found, dict):
        raise _bad("it must be a JSON object")
    return found


def _bad(rule: str) -> RefusedError:
    return RefusedError("body", None, rule, status=HTTPStatus.BAD_REQUEST)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names: set[str] = set()
    for name, _ in pairs:
        if name.casefold() in names:
            raise RefusedError(
                "body", name, "names a field twice (case does not count)",
                status=HTTPStatus.BAD_REQUEST,
            )  # fmt: skip
        names.add(name.casefold())
    return dict(pairs)


def _no_number(text: str) -> Any:
    raise RefusedError(
        "body", text, "the engine's numbers are whole ones", status=HTTPStatus.BAD_REQUEST
    )


def _integer(text: str) -> int:
    value = int(text) if len(text) <= len(str(_INT64)) + 1 else _INT64
    if not -_INT64 <= value < _INT64:
        raise RefusedError("body", text, "exceeds 64 bits", status=HTTPStatus.BAD_REQUEST)
    return value


def _check_texts(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value or not _encodable(value):
            raise _bad("a text has a NUL or half of a surrogate pair")
    elif isinstance(value, list):
        for item in value:
            _check_texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_texts(name)
            _check_texts(item)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
