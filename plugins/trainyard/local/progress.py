"""Live progress of a DAG run in a terminal: one line per task as it changes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TextIO

from trainyard.local.api import AirflowApi, TaskState

_DONE = {"success", "failed", "upstream_failed", "skipped", "removed"}
_SHOWN = {"running", "deferred", "up_for_retry", *_DONE}
_SIGNS = {"success": "ok", "failed": "FAILED", "upstream_failed": "not run", "deferred": "training"}


class ProgressPrinter:
    """Prints each change of a task's state once."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        """Print to *stream*."""
        self._stream = stream
        self._seen: dict[tuple[str, int], str] = {}
        self._began = time.monotonic()

    def update(self, tasks: Iterable[TaskState]) -> None:
        """Print what changed since the last call."""
        for task in sorted(tasks, key=lambda item: (item.start or "~", item.key)):
            if task.state in _SHOWN and self._seen.get(task.key) != task.state:
                self._seen[task.key] = task.state
                self._stream.write(self._line(task) + "\n")
        self._stream.flush()

    def _line(self, task: TaskState) -> str:
        passed = time.monotonic() - self._began
        name = task.task_id + (f" [{task.label or task.map_index}]" if task.map_index >= 0 else "")
        took = f"{_seconds(task):6.1f} s" if task.state in _DONE and task.start else ""
        state = _SIGNS.get(task.state, task.state)
        attempt = f" (try {task.try_number})" if task.try_number > 1 else ""
        return f"{passed:6.1f} s  {state:<9} {name}{attempt}  {took}".rstrip()


def _seconds(task: TaskState) -> float:
    if not task.start or not task.end:
        return 0.0
    return (datetime.fromisoformat(task.end) - datetime.fromisoformat(task.start)).total_seconds()


def follow(
    api: AirflowApi,
    dag_id: str,
    run_id: str,
    *,
    check: Callable[[], None],
    stream: TextIO = sys.stdout,
    interval_s: float = 1.0,
) -> str:
    """Print a DAG run's progress until it ends; return its final state.

    *check* is called between polls and raises when waiting longer is useless.
    """
    printer = ProgressPrinter(stream)
    while True:
        state = str(api.run(dag_id, run_id)["state"])
        printer.update(api.tasks(dag_id, run_id))
        if state in {"success", "failed"}:
            return state
        check()
        time.sleep(interval_s)
