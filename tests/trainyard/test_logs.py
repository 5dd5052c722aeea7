"""Structured lines: what is bound stands in every line, here and in Airflow's own processes."""

from __future__ import annotations

import asyncio
import io
import json
import logging

import pytest
from structlog.contextvars import clear_contextvars

from trainyard.logs import JsonFormatter, bind, bound, configure


@pytest.fixture(autouse=True)
def clean():
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    clear_contextvars()
    yield
    clear_contextvars()
    root.handlers[:] = kept
    root.setLevel(level)


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_airflows_keys_and_what_is_bound():
    stream = io.StringIO()
    configure(stream=stream)
    log = logging.getLogger("trainyard.exporter")
    with bound(run_id="r1", study_id="", dag_id=None):
        log.info("scraped %s runs", 3)
    log.warning("again")
    first, second = lines(stream)
    assert first.pop("timestamp").endswith("+00:00")
    assert first == {
        "level": "info", "event": "scraped 3 runs", "logger": "trainyard.exporter", "run_id": "r1",
    }  # fmt: skip
    assert "run_id" not in second


def test_an_exception_is_one_line():
    stream = io.StringIO()
    configure(stream=stream)
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        logging.getLogger("x").exception("failed")
    (line,) = lines(stream)
    assert line["event"] == "failed"
    assert line["exception"].endswith("ValueError: broken\nin two\n")


def test_what_json_cannot_hold_does_not_lose_the_line():
    bind(path=io)
    record = logging.LogRecord("x", logging.INFO, "f", 1, "told", (), None)
    assert "module" in json.loads(JsonFormatter().format(record))["path"]


def test_triggers_beside_each_other_do_not_mix():
    stream = io.StringIO()
    configure(stream=stream)

    async def trigger(name):
        bind(run_id=name)
        for _ in range(3):
            await asyncio.sleep(0)
            logging.getLogger("t").info(name)

    async def both():
        await asyncio.gather(trigger("a"), trigger("b"))

    asyncio.run(both())
    found = lines(stream)
    assert len(found) == 6
    assert all(line["run_id"] == line["event"] for line in found)
