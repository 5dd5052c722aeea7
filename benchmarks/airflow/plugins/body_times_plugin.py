"""Write down when each task's own code starts and ends, so that Airflow's share can be told.

Loaded by ``make bench-pipeline`` alone, which names the file in ``TRAINYARD_BODY_TIMES``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, ClassVar

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin


def _write(event: str, task_instance: Any) -> None:
    line = json.dumps(
        {
            "event": event,
            "time": time.time(),
            "run_id": task_instance.run_id,
            "task_id": task_instance.task_id,
            "map_index": task_instance.map_index,
        }
    )
    # One short O_APPEND write is atomic, so that tasks at the same time do not mix their lines.
    descriptor = os.open(os.environ["TRAINYARD_BODY_TIMES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


@hookimpl
def on_task_instance_running(previous_state: Any, task_instance: Any) -> None:
    _write("start", task_instance)


@hookimpl
def on_task_instance_success(previous_state: Any, task_instance: Any) -> None:
    _write("end", task_instance)


class BodyTimesPlugin(AirflowPlugin):
    """Registers this module as a listener."""

    name = "body_times"
    listeners: ClassVar[list[Any]] = [sys.modules[__name__]]
