from __future__ import annotations

import io

from trainyard.local.api import TaskState
from trainyard.local.progress import ProgressPrinter


def state(task_id: str, value: str, **changes) -> TaskState:
    fields = {"task_id": task_id, "map_index": -1, "label": "", "state": value, "try_number": 1,
              "start": "2026-01-01T00:00:00+00:00", "end": None, "queued": None}  # fmt: skip
    return TaskState(**(fields | changes))


def test_each_change_is_printed_once():
    stream = io.StringIO()
    printer = ProgressPrinter(stream)
    printer.update([state("fetch", "running")])
    printer.update([state("fetch", "running")])
    printer.update([state("fetch", "success", end="2026-01-01T00:00:02.500000+00:00")])
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "running" in lines[0]
    assert lines[1].split()[-2:] == ["2.5", "s"]
    assert "ok" in lines[1]


def test_a_mapped_task_shows_its_label_and_a_retry_its_number():
    stream = io.StringIO()
    ProgressPrinter(stream).update(
        [state("run", "deferred", map_index=3, label="strong n=2 repeat 1", try_number=2)]
    )
    assert "run [strong n=2 repeat 1] (try 2)" in stream.getvalue()
    assert "training" in stream.getvalue()


def test_states_nobody_acts_on_are_not_printed():
    stream = io.StringIO()
    ProgressPrinter(stream).update([state("run", "scheduled"), state("other", "waiting")])
    assert stream.getvalue() == ""
