"""One JSON line per decision, and the counters behind ``/metrics``."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

_HELP = "Requests by operation and decision (allowed, refused, failed)."
_NAME = "trainyard_docker_proxy_requests_total"


@dataclass(kw_only=True, slots=True)
class Entry:
    """What became of one request; values of environment variables never stand in it."""

    client: str
    method: str
    path: str
    operation: str = "unknown"
    decision: str = "allowed"
    details: dict[str, Any] = field(default_factory=dict)

    def refuse(self, **details: Any) -> None:
        """Record a refusal."""
        self.decision = "refused"
        self.details |= details


class _LineHandler(logging.Handler):
    def __init__(self, audit: Audit) -> None:
        super().__init__(logging.WARNING)
        self._audit = audit

    def emit(self, record: logging.LogRecord) -> None:
        reason = record.exc_info[1] if record.exc_info else None
        details = {"error": f"{type(reason).__name__}: {reason}"[:300]} if reason else {}
        text = record.getMessage()[:300]
        self._audit.line("library", record.levelname.lower(), source=record.name, text=text,
                         **details)  # fmt: skip


class Audit:
    """Writes entries and counts them."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        """Write to *stream*, standard output by default."""
        self._stream = stream
        self._counts: Counter[tuple[str, str]] = Counter()

    def write(self, entry: Entry, status: int, duration_s: float) -> None:
        """Write *entry* as one line; refusals have the level warning."""
        self._counts[entry.operation, entry.decision] += 1
        self.line(
            "decision",
            "warning" if entry.decision == "refused" else "info",
            decision=entry.decision,
            operation=entry.operation,
            client=entry.client,
            method=entry.method,
            path=entry.path,
            status=status,
            duration_ms=round(1000 * duration_s, 1),
            **entry.details,
        )

    def line(self, event: str, level: str, **values: Any) -> None:
        """Write one line with *values*."""
        record = {
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": level,
            "logger": "trainyard.dockerproxy",
            "event": event,
            **values,
        }
        print(json.dumps(record), file=self._stream or sys.stdout, flush=True)

    def handler(self) -> logging.Handler:
        """Return a handler that writes what libraries log, such as unreadable requests."""
        return _LineHandler(self)

    def metrics(self) -> str:
        """Return the counters in Prometheus' text format."""
        lines = [f"# HELP {_NAME} {_HELP}", f"# TYPE {_NAME} counter"]
        lines += [
            f'{_NAME}{{operation="{operation}",decision="{decision}"}} {count}'
            for (operation, decision), count in sorted(self._counts.items())
        ]
        return "\n".join(lines) + "\n"
