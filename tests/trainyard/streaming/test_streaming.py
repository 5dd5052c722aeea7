"""Streaming: parts that arrived are not sent twice, outages cost nothing."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

import pytest

from tests.fakes.runs import SPEC
from tests.fixtures.faults import proxy_to
from tests.fixtures.streamed import (
    BIG,
    MIB,
    checkpoint,
    old,
    stored,
    stored_or_nothing,
    through,
)
from trainyard.errors import UnavailableError
from trainyard.ingest import _store_files
from trainyard.objectstore import ObjectStore
from trainyard.store import RunRow, migrate, open_store
from trainyard.streaming import Streamer, finish
from trainyard.streaming.ledger import Ledger, key_of


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
