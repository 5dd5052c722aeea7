"""``RefusedError``: what the proxy answers when a rule forbids a request."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from trainyard.errors import TrainyardError

_SHOWN = 120


class RefusedError(TrainyardError):
    """A request that no rule permits; names the field, its value and the rule.

    The value is shortened, and left out for fields that may hold secrets.
    """

    def __init__(
        self, field: str, value: Any, rule: str, *, status: int = HTTPStatus.FORBIDDEN
    ) -> None:
        """*field* is a path like ``HostConfig.Mounts[0].Source``; *value* None is not shown."""
        self.field = field
        self.value = "" if value is None else _short(value)
        self.rule = rule
        self.status = int(status)
        shown = f" = {self.value}" if self.value else ""
        super().__init__(f"docker proxy refuses {field}{shown}: {rule}")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
