"""Streaming while a trigger waits: in threads of its own, beside a loop that goes on."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

import pytest

from tests.fixtures.faults import proxy_to
from tests.fixtures.streamed import (
    checkpoint,
    stored,
    stored_or_nothing,
    through,
)
from trainyard.objectstore import ObjectStore
from trainyard.paths import RunPaths
from trainyard.streaming import background, poke
from trainyard.streaming.ledger import Ledger


class TestBackground:
    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch):
        monkeypatch.setattr(background, "_TURNS", {})

    def wait(self, paths):
        for _ in range(2000):
            if not background._TURNS[str(paths.run_dir)].busy:
                return
            time.sleep(0.02)
        pytest.fail("the upload did not end")

    def test_a_poke_is_quick_and_the_files_arrive(self, settings, paths):
        checkpoint(paths, 10)
        started = time.monotonic()
        assert poke(paths, settings)
        assert time.monotonic() - started < 0.5
        self.wait(paths)
        assert "checkpoints/run-1/step-0000000010.pt" in stored(settings)
        assert not poke(paths, settings), "its next turn is ten seconds away"
        background.forget(paths)
        assert poke(paths, settings)
        self.wait(paths)

    def test_a_silent_store_holds_up_one_thread_and_nobody_else(self, settings, paths, tmp_path):
        checkpoint(paths, 10)
        other = RunPaths(root=tmp_path / "runs", run_id="run-2")
        other.checkpoints.mkdir(parents=True)
        checkpoint(other, 10)
        gate = threading.Event()
        ObjectStore(settings).ensure_bucket()  # imports what both need
        with proxy_to(settings.s3_endpoint) as proxy:
            proxy.refuse = lambda line: not gate.wait(50)
            assert poke(paths, through(settings, proxy))
            assert poke(other, settings)
            self.wait(other)
            assert background._TURNS[str(paths.run_dir)].busy
            assert not poke(paths, settings), "one upload per run"
            gate.set()
            self.wait(paths)
        assert len([key for key in stored(settings) if key.endswith(".pt")]) == 2

    def test_an_outage_is_logged_and_tried_later_and_less_often(self, settings, paths, caplog):
        checkpoint(paths, 10)
        gone = replace(settings, s3_endpoint="127.0.0.1:9", stream_every_s=1)
        pauses = []
        for _ in range(2):
            background._TURNS.get(str(paths.run_dir), background._Turn()).due = 0.0
            poke(paths, gone)
            self.wait(paths)
            pauses.append(background._TURNS[str(paths.run_dir)].pause_s)
        assert pauses == [1.0, 2.0]
        assert "files are not streamed for now, again in 2 s" in caplog.text

    def test_switched_off(self, settings, paths):
        checkpoint(paths, 10)
        off = replace(settings, stream_every_s=0)
        poke(paths, off)
        self.wait(paths)
        assert not poke(paths, off)
        assert stored_or_nothing(settings) == []


@pytest.mark.asyncio
async def test_a_trigger_streams_while_it_waits_and_stops_with_it(settings, paths, monkeypatch):
    """The loop goes round while the store is silent, and the task of the trigger ends with it."""
    from trainyard.triggers.base import RunWaiter

    class Waiter(RunWaiter):
        async def run(self):
            yield

    monkeypatch.setattr(background, "_TURNS", {})
    monkeypatch.setattr(background, "load_settings", lambda: settings)
    monkeypatch.setattr(Waiter, "files", lambda _: (None, paths))
    checkpoint(paths, 10)
    trigger = Waiter(plan="", run_id="run-1", deadline=0, owner=1)
    before = asyncio.all_tasks()
    longest, last = 0.0, time.monotonic()
    async with trigger.streaming():
        for _ in range(500):
            await asyncio.sleep(0.02)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
            if paths.streamed.exists():
                break
    assert asyncio.all_tasks() == before
    assert Ledger.read(paths.streamed).uploaded
    assert longest < 2.0
    assert background._TURNS == {}
