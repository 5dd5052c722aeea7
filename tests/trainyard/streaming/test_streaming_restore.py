"""Checkpoints come back: the newest that is whole, and only where a run goes on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.fakes.runs import SPEC
from tests.fixtures.faults import proxy_to
from tests.fixtures.streamed import (
    BIG,
    checkpoint,
    through,
)
from trainyard.errors import UnavailableError
from trainyard.objectstore import ObjectStore
from trainyard.paths import RunPaths
from trainyard.streaming import Streamer, restore, restore_lost


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
