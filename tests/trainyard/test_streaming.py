"""Streaming: parts that arrived are not sent twice, outages cost nothing, checkpoints come back."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.fakes.runs import SPEC
from tests.fixtures.faults import proxy_to
from tests.fixtures.settings import make_settings
from trainyard.errors import UnavailableError
from trainyard.ingest import _store_files
from trainyard.objectstore import ObjectStore
from trainyard.paths import RunPaths
from trainyard.store import RunRow, migrate, open_store
from trainyard.streaming import Streamer, background, finish, poke, restore, restore_lost
from trainyard.streaming.ledger import Ledger, key_of

MIB = 2**20
BIG = os.urandom(20 * MIB)


@pytest.fixture
def settings(tmp_path, s3_server):
    return make_settings(tmp_path, **s3_server.settings())


@pytest.fixture
def paths(tmp_path):
    made = RunPaths(root=tmp_path / "runs", run_id="run-1")
    made.checkpoints.mkdir(parents=True)
    return made


def checkpoint(paths, step, body=b"weights"):
    path = paths.checkpoints / f"step-{step:010d}.pt"
    path.write_bytes(body)
    return path


def old(path, seconds=100):
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def stored(settings):
    return ObjectStore(settings).keys("")


def through(settings, proxy):
    return replace(settings, s3_endpoint=proxy.endpoint)


class TestKeys:
    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("checkpoints/step-1.pt", "checkpoints/r/step-1.pt"),
            ("profiles/deep/rank0.json", "profiles/r/deep/rank0.json"),
            ("stdout.log", "logs/r/stdout.log"),
            ("attempts/5-0.json", "runs/r/attempts/5-0.json"),
            ("result.json", "runs/r/result.json"),
            ("checkpoints", "runs/r/checkpoints"),
        ],
    )
    def test_the_kind_comes_first(self, name, key):
        assert key_of("r", name) == key


class TestWhileItRuns:
    def test_only_what_is_finished_is_sent(self, settings, paths):
        checkpoint(paths, 10)
        (paths.checkpoints / ".step-20.pt.7.partial").write_bytes(b"half")
        (paths.run_dir / "metrics.jsonl").write_text("{}")
        (paths.run_dir / "stdout.log").write_text("growing")
        quiet = paths.run_dir / "stderr.log"
        quiet.write_text("settled")
        old(quiet)
        done = Streamer(settings, paths).step()
        assert (done.sent, done.stored) == (2, 2)
        assert stored(settings) == [
            "checkpoints/run-1/index.json",
            "checkpoints/run-1/step-0000000010.pt",
            "logs/run-1/stderr.log",
        ]
        assert Streamer(settings, paths).step().sent == 0

    def test_a_log_that_grew_is_sent_again(self, settings, paths):
        log = paths.run_dir / "stdout.log"
        for text in ("one\n", "one\ntwo\n"):
            log.write_text(text)
            old(log, 100 - len(text))
            assert Streamer(settings, paths).step().sent == 1
        assert ObjectStore(settings).get_bytes("logs/run-1/stdout.log") == b"one\ntwo\n"

    def test_stored_checkpoints_are_pruned_and_others_never(self, settings, paths):
        for step in (10, 20, 30, 40):
            checkpoint(paths, step)
        Streamer(settings, paths).step()
        left = sorted(path.name for path in paths.checkpoints.iterdir())
        assert left == ["step-0000000030.pt", "step-0000000040.pt"]
        with proxy_to(settings.s3_endpoint) as proxy:
            proxy.dead = True
            for step in (50, 60, 70):
                checkpoint(paths, step)
            with pytest.raises(UnavailableError):
                Streamer(through(settings, proxy), paths, timeout_s=1).step()
        assert len(list(paths.checkpoints.iterdir())) == 5, "nothing that is only here goes"
        done = Streamer(settings, paths).step()
        assert (done.stored, done.missing) == (7, 0)

    def test_bandwidth_is_bounded(self, settings, paths):
        slow = replace(settings, stream_bytes_per_s=200_000)
        for step in (1, 2, 3):
            checkpoint(paths, step, bytes(60_000))
        started = time.monotonic()
        Streamer(slow, paths).step()
        assert time.monotonic() - started > 0.5  # 120 kB wait for their turn, 60 kB go at once


class TestLargeFiles:
    def test_parts_that_arrived_are_not_sent_twice(self, settings, paths):
        path = checkpoint(paths, 10, BIG)
        with proxy_to(settings.s3_endpoint) as proxy:
            proxy.refuse = lambda line: "partNumber=3" in line
            with pytest.raises(UnavailableError, match="part 3"):
                Streamer(through(settings, proxy), paths, timeout_s=2).step()
            assert "checkpoints/run-1/step-0000000010.pt" not in stored(settings)
            proxy.refuse = lambda line: False
            before = proxy.up
            # Another process, after the triggerer was killed: it knows only the ledger.
            done = Streamer(through(settings, proxy), paths).step()
            assert proxy.up - before < 6 * MIB, "4 of 20 MiB were missing"
        assert done.sent == 1
        copy = ObjectStore(settings).get_bytes("checkpoints/run-1/step-0000000010.pt")
        assert copy == BIG
        ledger = Ledger.read(paths.streamed)
        (known,) = ledger.uploaded.values()
        assert known.sha256 == hashlib.sha256(BIG).hexdigest()
        assert ledger.begun == {}
        assert path.exists()

    def test_a_server_that_forgot_the_upload(self, settings, paths):
        checkpoint(paths, 10, BIG)
        with proxy_to(settings.s3_endpoint) as proxy:
            proxy.refuse = lambda line: "partNumber=2" in line
            with pytest.raises(UnavailableError):
                Streamer(through(settings, proxy), paths, timeout_s=2).step()
        ledger = Ledger.read(paths.streamed)
        (begun,) = ledger.begun.values()
        ledger.begun[begun.name] = replace(begun, upload_id="no-such-upload")
        ledger.write(paths.streamed)
        assert Streamer(settings, paths).step().sent == 1
        assert ObjectStore(settings).get_bytes("checkpoints/run-1/step-0000000010.pt") == BIG

    def test_another_file_under_the_same_name_begins_anew(self, settings, paths):
        checkpoint(paths, 10, BIG)
        with proxy_to(settings.s3_endpoint) as proxy:
            proxy.refuse = lambda line: "partNumber=2" in line
            with pytest.raises(UnavailableError):
                Streamer(through(settings, proxy), paths, timeout_s=2).step()
        other = BIG[::-1]
        checkpoint(paths, 10, other)
        Streamer(settings, paths).step()
        assert ObjectStore(settings).get_bytes("checkpoints/run-1/step-0000000010.pt") == other

    def test_a_checkpoint_that_the_trainer_removed_meanwhile(self, settings, paths, monkeypatch):
        path = checkpoint(paths, 10, BIG)
        streamer = Streamer(settings, paths)
        real = streamer._multipart._send

        def send(*arguments):
            path.unlink(missing_ok=True)
            real(*arguments)

        monkeypatch.setattr(streamer._multipart, "_send", send)
        done = streamer.step()
        # It was open: what was begun is completed, and counts.
        assert (done.stored, done.missing, Ledger.read(paths.streamed).begun) == (1, 0, {})


class TestAtTheEnd:
    def test_only_what_is_missing_is_sent(self, settings, paths):
        checkpoint(paths, 10, BIG)
        Streamer(settings, paths).step()
        (paths.run_dir / "result.json").write_text("{}")
        (paths.run_dir / "stdout.log").write_text("said")
        with proxy_to(settings.s3_endpoint) as proxy:
            done = finish(through(settings, proxy), paths)
            assert proxy.up < MIB
        assert (done.sent, done.stored, done.missing) == (2, 3, 0)
        assert stored(settings)[-2:] == ["logs/run-1/stdout.log", "runs/run-1/result.json"]
        assert finish(settings, paths).sent == 0

    def test_an_outage_is_counted_and_never_raised(self, settings, paths):
        (paths.run_dir / "result.json").write_text("{}")
        (paths.run_dir / "stdout.log").write_text("said")
        gone = replace(settings, s3_endpoint="127.0.0.1:9")
        done = finish(gone, paths)
        assert (done.stored, done.missing) == (0, 2)
        assert "127.0.0.1:9" in done.detail
        done = finish(settings, paths)
        assert (done.stored, done.missing, done.detail) == (2, 0, "")

    def test_links_are_left_out(self, settings, paths, tmp_path):
        (tmp_path / "secret").write_text("s")
        (paths.run_dir / "link").symlink_to(tmp_path / "secret")
        finish(settings, paths)
        assert stored_or_nothing(settings) == []

    def test_a_damaged_ledger_costs_sending_again(self, settings, paths):
        (paths.run_dir / "result.json").write_text("{}")
        finish(settings, paths)
        paths.streamed.write_text("{")
        done = finish(settings, paths)
        assert (done.sent, done.stored, done.missing) == (1, 1, 0)


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


def stored_or_nothing(settings):
    ObjectStore(settings).ensure_bucket()
    return stored(settings)


class TestRestore:
    def test_the_newest_comes_back_whole(self, settings, paths, tmp_path):
        for step in (10, 20, 30):
            checkpoint(paths, step, BIG[: step * 1000])
        Streamer(settings, paths).step()
        found = restore(settings, "run-1", tmp_path / "elsewhere")
        assert found.name == "step-0000000030.pt"
        assert found.read_bytes() == BIG[:30_000]
        assert [path.name for path in found.parent.iterdir()] == [found.name]

    def test_a_damaged_or_expired_one_is_passed_over(self, settings, paths, tmp_path, s3_server):
        for step in (10, 20, 30):
            checkpoint(paths, step, BIG[: step * 1000])
        Streamer(settings, paths).step()
        home = s3_server.root / settings.s3_bucket / "checkpoints" / "run-1"
        ObjectStore(settings).remove("checkpoints/run-1/step-0000000030.pt")
        (home / "step-0000000020.pt").write_bytes(bytes(20_000))
        found = restore(settings, "run-1", tmp_path / "elsewhere")
        assert found.read_bytes() == BIG[:10_000]
        assert len(list(found.parent.iterdir())) == 1

    @pytest.mark.parametrize("last", ["step", "finish"])
    def test_a_list_that_the_store_did_not_take_is_written_later(
        self, settings, paths, tmp_path, last
    ):
        """Else the newest checkpoint is stored and nobody who resumes the run can know."""
        checkpoint(paths, 10)
        with proxy_to(settings.s3_endpoint) as proxy:
            proxy.refuse = lambda line: line.startswith("PUT") and "index.json" in line
            with pytest.raises(UnavailableError):
                Streamer(through(settings, proxy), paths, timeout_s=1).step()
            assert restore(settings, "run-1", tmp_path / "elsewhere") is None
            proxy.refuse = lambda line: False
            done = getattr(Streamer(through(settings, proxy), paths), last)()
            assert (done.sent, done.stored, done.missing) == (0, 1, 0)
        assert restore(settings, "run-1", tmp_path / "elsewhere").read_bytes() == b"weights"

    def test_none_is_stored(self, settings, tmp_path):
        ObjectStore(settings).ensure_bucket()
        assert restore(settings, "run-1", tmp_path) is None

    def test_a_hostile_index(self, settings, tmp_path):
        store = ObjectStore(settings)
        store.ensure_bucket()
        entry = {"name": "../../x", "size_bytes": 1, "sha256": "0"}
        good = {"name": "step-0000000010.pt", "size_bytes": 1, "sha256": "0"}
        halves = [{"name": good["name"]}, {**good, "size_bytes": "much"}, {**good, "name": None}]
        for listed in ([entry, 5, *halves], 7, {"name": 1}):
            store.put_json("checkpoints/run-1/index.json", {"checkpoints": listed})
            assert restore(settings, "run-1", tmp_path / "to") is None
        assert not (tmp_path / "x").exists()

    def test_the_store_is_down(self, settings, tmp_path):
        with pytest.raises(UnavailableError):
            restore(replace(settings, s3_endpoint="127.0.0.1:9"), "run-1", tmp_path)


class TestWhereARunGoesOn:
    """Which attempt gets which checkpoint before it starts."""

    def run(self, paths, every=5):
        spec = replace(SPEC, checkpoint_every=every)
        return SimpleNamespace(planned=SimpleNamespace(spec=spec), paths=paths)

    @pytest.fixture
    def sent(self, settings, paths):
        checkpoint(paths, 10, b"weights")
        Streamer(settings, paths).step()
        return paths

    def test_a_folder_that_was_lost_with_its_disk(self, settings, sent):
        shutil.rmtree(sent.run_dir)
        assert restore_lost(settings, self.run(sent), sent).read_bytes() == b"weights"

    def test_the_attempt_after_a_lost_one(self, settings, sent):
        sent.recorded.write_text("lost\n")
        second = sent.attempt(2)
        assert restore_lost(settings, self.run(sent), second).read_bytes() == b"weights"
        assert second.checkpoints.is_dir()

    @pytest.mark.parametrize("verdict", ["completed", "failed", "cancelled", None])
    def test_an_attempt_that_was_cleared_starts_anew(self, settings, sent, verdict):
        if verdict:
            sent.recorded.write_text(f"{verdict}\n")
        assert restore_lost(settings, self.run(sent), sent.attempt(2)) is None
        assert not sent.attempt(2).run_dir.exists()

    def test_a_folder_that_is_there_is_left_alone(self, settings, sent):
        (sent.checkpoints / "step-0000000010.pt").unlink()
        assert restore_lost(settings, self.run(sent), sent) is None

    def test_a_run_without_checkpoints_asks_nobody(self, tmp_path):
        gone = RunPaths(root=tmp_path / "nowhere", run_id="r")
        assert restore_lost(None, self.run(gone, every=0), gone) is None

    def test_a_store_that_is_down_does_not_keep_a_run_from_starting(self, settings, sent, caplog):
        shutil.rmtree(sent.run_dir)
        gone = replace(settings, s3_endpoint="127.0.0.1:9")
        assert restore_lost(gone, self.run(sent), sent) is None
        assert "starts from the beginning" in caplog.text


def test_the_row_says_that_artifacts_are_missing_until_they_are_not(settings, paths):
    with open_store(settings.results_url) as store:
        migrate(store)
        row = RunRow(run_id="run-1", site="s", launcher="process", status="failed", spec=SPEC)
        store.save_run(row)
    (paths.run_dir / "result.json").write_text("{}")

    def flagged():
        with open_store(settings.results_url) as store:
            return [
                (row["run_id"], row["missing"]) for row in store.query("runs_missing_artifacts")
            ]

    gone = replace(settings, s3_endpoint="127.0.0.1:9")
    with pytest.raises(UnavailableError, match="1 files of run run-1"):
        _store_files(gone, paths)
    assert flagged() == [("run-1", 1)]
    _store_files(settings, paths)
    assert flagged() == []


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
