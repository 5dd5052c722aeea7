"""Structured logs: what a line is about, as fields beside its text, in every process of Trainyard.

Airflow's own processes write JSON with ``[logging] json_logs = True``, and task logs are JSON
always; both add what is bound here (structlog's context). Processes without Airflow call
``configure`` and write the same keys: timestamp, level, event, logger, and what is bound.
docs/security.md says how to search them.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any


@contextmanager
def bound(**values: Any) -> Iterator[None]:
    """Add *values* to every line logged in this context, by whatever logger; empty ones are not.

    Asynchronous tasks each have their own context: triggers beside each other do not mix.
    """
    from structlog.contextvars import bound_contextvars

    known = {name: value for name, value in values.items() if value is not None and value != ""}
    with bound_contextvars(**known):
        yield


def bind(**values: Any) -> None:
    """Add *values* to every line that this process logs from now on."""
    from structlog.contextvars import bind_contextvars

    bind_contextvars(**{n: value for n, value in values.items() if value is not None})


class JsonFormatter(logging.Formatter):
    """One JSON object per record, in the keys that Airflow's own JSON logs have."""

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as one line."""
        from structlog.contextvars import get_contextvars

        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **get_contextvars(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)


def configure(level: int = logging.INFO, stream: IO[str] | None = None) -> None:
    """Let every logger of this process write JSON lines to *stream*, standard error by default.

    For programs without Airflow, such as the exporter: Airflow's own would write lines twice.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
