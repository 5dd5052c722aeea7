"""Checks of single values: each returns what goes to the engine, or raises ``RefusedError``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from trainyard.dockerproxy.policy import Policy
from trainyard.dockerproxy.refusal import RefusedError

Check = Callable[[str, Any, Policy], Any]
"""``check(field, value, policy)``: the value to send on, None for none; it is given none."""
_CODE_ENV = ("LD_PRELOAD", "LD_AUDIT")
_GPU_ENV = "NVIDIA_"
_EMPTY: tuple[Any, ...] = (None, "", 0, False, [], {})


def is_unset(value: Any) -> bool:
    """Return whether *value* is one of those that clients write for "not given"."""
    return any(value == empty for empty in _EMPTY)


def checked(where: str, given: Any, known: Mapping[str, Check], policy: Policy) -> dict[str, Any]:
    """Return the fields of *given* that are set and allowed; refuse what *known* does not name.

    An unknown field that is empty is left out instead: the engine never sees it.
    """
    if not isinstance(given, dict):
        raise RefusedError(where, given, "must be an object")
    found = {}
    for name, value in given.items():
        field = f"{where}.{name}" if where else name
        if value is None:
            continue
        if name in known:
            understood = known[name](field, value, policy)
            if understood is not None:
                found[name] = understood
        elif not is_unset(value):
            raise RefusedError(field, value, "is not among the fields that this proxy permits")
    return found


def never(why: str) -> Check:
    """Return a check that refuses every value but an empty one, which is left out."""

    def check(field: str, value: Any, _: Policy) -> None:
        if not is_unset(value):
            raise RefusedError(field, value, why)

    return check


def absent(why: str) -> Check:
    """Return a check that refuses even an empty value: here empty means less protection."""

    def check(field: str, value: Any, _: Policy) -> Any:
        raise RefusedError(field, value, why)

    return check


def one_of(*choices: str, why: str = "") -> Check:
    """Return a check for a text among *choices*."""

    def check(field: str, value: Any, _: Policy) -> Any:
        if value not in choices or not isinstance(value, str):
            named = ", ".join(repr(choice) for choice in choices)
            raise RefusedError(field, value, f"must be one of {named}{why and f': {why}'}")
        return value

    return check


def boolean(field: str, value: Any, _: Policy) -> bool:
    """Permit either."""
    if not isinstance(value, bool):
        raise RefusedError(field, value, "must be true or false")
    return value


def text(field: str, value: Any, _: Policy) -> str:
    """Permit any text."""
    if not isinstance(value, str):
        raise RefusedError(field, None, "must be a text")
    return value


def texts(field: str, value: Any, _: Policy) -> list[str]:
    """Permit any list of texts; a single text is a list of one."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise RefusedError(field, None, "must be a list of texts")
    return found


def whole(least: int, most: int | None = None) -> Check:
    """Return a check for a whole number of *least* to *most*."""

    def check(field: str, value: Any, _: Policy) -> int:
        return number(field, value, least, most)

    return check


def number(field: str, value: Any, least: int, most: int | None = None) -> int:
    """Return *value* if it is a whole number in the given range."""
    if type(value) is not int or value < least or (most is not None and value > most):
        upto = "" if most is None else f" to {most}"
        raise RefusedError(field, value, f"must be a whole number from {least}{upto}")
    return value


def environment(field: str, value: Any, policy: Policy) -> list[str]:
    """Permit variables, but none that reaches a program of the host through the engine's hooks."""
    found = texts(field, value, policy)
    for item in found:
        name = item.partition("=")[0]
        if name in _CODE_ENV:
            raise RefusedError(
                f"{field} {name}", None, "loads code into every program, the GPU hook's on the "
                "host among them; set it inside the container",
            )  # fmt: skip
        if name.startswith(_GPU_ENV) and not policy.gpus:
            raise RefusedError(
                f"{field} {name}", None, "asks the GPU runtime for devices, and gpus is false"
            )
    return found


def labels(field: str, value: Any, policy: Policy) -> dict[str, str]:
    """Permit any labels."""
    if not isinstance(value, dict):
        raise RefusedError(field, value, "must be an object of texts")
    return {name: text(f"{field}.{name}", item, policy) for name, item in value.items()}


def user(field: str, value: Any, _: Policy) -> str:
    """Permit users by number, except root: a name is whatever the image makes of it."""
    if not isinstance(value, str) or (value and not _USER.fullmatch(value)):
        raise RefusedError(
            field, value, "must be uid or uid:gid in digits and not root, such as 10001:10001"
        )
    return value


_USER = re.compile(r"[1-9][0-9]{0,9}(:[1-9][0-9]{0,9})?")
