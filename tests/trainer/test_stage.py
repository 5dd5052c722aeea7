"""From the shared folder to this node's cache, and runs that read through it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.conftest import DIGEST, command, environment, execute, make_spec
from trainer.cache import Cache, CacheError, DamagedError, Limit
from trainer.contract import RunResult, loads
from trainer.failures import DataError
from trainer.stage import local_copy, main, stage

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def prepared(tmp_path):
    """A folder as ``prepare`` leaves it: arrays, and a description with their digests."""
    folder = tmp_path / "data" / DIGEST
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("test", 16)):
        images = rng.integers(0, 256, (count, 32, 32, 1), dtype=np.uint8)
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", np.arange(count, dtype=np.int64) % 10)
    describe(folder)
    return folder


def describe(folder, **changes):
    files = {
        path.name: {
            "size_bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.glob("*.npy"))
    }
    told = {"name": "digits", "digest": DIGEST, "classes": list("0123456789"), "layout": 1}
    (folder / "dataset.json").write_text(json.dumps({**told, "files": files, **changes}))


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", Limit(size_bytes=10**7), wait_s=5)


def same(left, right):
    names = sorted(path.name for path in left.iterdir())
    assert names == sorted(p.name for p in right.iterdir() if not p.name.startswith("."))
    assert all((left / name).read_bytes() == (right / name).read_bytes() for name in names)


def test_the_copy_is_the_same_and_made_once(prepared, cache):
    with stage(prepared, cache) as first:
        assert not first.hit
        same(prepared, first.folder)
        with stage(prepared, cache) as second:
            assert second.hit
            assert second.folder == first.folder


def test_another_preparation_of_the_same_archive_is_another_entry(prepared, cache):
    stage(prepared, cache).release()
    describe(prepared, layout=2)
    stage(prepared, cache).release()
    assert len(cache.entries()) == 2


def test_a_damaged_source_leaves_no_entry(prepared, cache):
    path = prepared / "train_images.npy"
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    with pytest.raises(DamagedError, match=r"train_images\.npy: SHA-256 is"):
        stage(prepared, cache)
    assert cache.entries() == []


@pytest.mark.parametrize("text", ["{", "[]", '{"digest": "x"}', '{"digest": 1, "files": [1]}'])
def test_what_is_no_data_set(prepared, cache, text):
    (prepared / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="not a description"):
        stage(prepared, cache)


def test_a_key_from_a_hostile_description(prepared, cache):
    describe(prepared, digest="../../etc")
    with pytest.raises(CacheError, match="cache key"):
        stage(prepared, cache)


def test_files_from_a_hostile_description(prepared, cache, tmp_path):
    (tmp_path / "secret").write_text("s")
    digest = hashlib.sha256(b"s").hexdigest()
    describe(prepared, files={"../../secret": {"size_bytes": 1, "sha256": digest}})
    with pytest.raises(DamagedError, match=r"names .*secret"):
        stage(prepared, cache)
    assert cache.entries() == []
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted(
        ["entries", "incoming", "announced", "trash", "quarantine", "locks", "pins"]
    )


class TestLocalCopy:
    def test_without_a_cache_it_is_the_folder_itself(self, prepared):
        with local_copy(prepared, None, "50%") as folder:
            assert folder == prepared
        with local_copy(None, Path("/nowhere"), "50%") as folder:
            assert folder is None

    @pytest.mark.parametrize("limit", ["1", "a lot"])
    def test_a_cache_that_cannot_help_does_not_end_the_run(self, prepared, tmp_path, limit, capsys):
        with local_copy(prepared, tmp_path / "cache", limit) as folder:
            assert folder == prepared
        assert f"Reading {prepared} itself" in capsys.readouterr().err

    def test_a_damaged_source_ends_the_run(self, prepared, tmp_path):
        path = prepared / "test_labels.npy"
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
        with (
            pytest.raises(DataError, match="prepare the data set again"),
            local_copy(prepared, tmp_path / "cache", "1 GB"),
        ):
            pass

    def test_it_is_in_use_while_it_is_read(self, prepared, tmp_path):
        with local_copy(prepared, tmp_path / "cache", "1 GB") as folder:
            cache = Cache(tmp_path / "cache", Limit(size_bytes=10**9))
            assert not cache.evict(folder.name)
        assert cache.evict(folder.name)


def test_the_command(prepared, tmp_path, capsys):
    assert main([str(prepared), str(tmp_path / "cache"), "--pin", "--limit", "1 GB"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    same(prepared, folder)
    cache = Cache(tmp_path / "cache", Limit(size_bytes=10**9))
    assert cache.entries()[0].pinned
    assert main([str(tmp_path), str(tmp_path / "cache")]) == 1
    assert "dataset.json" in capsys.readouterr().err


def test_the_command_needs_nothing_but_python(prepared, tmp_path):
    """A node's prolog may run it with the system's Python: neither torch nor numpy is imported."""
    code = (
        "import sys; from trainer.stage import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'numpy'} & set(sys.modules); sys.exit(code)"
    )
    argv = [sys.executable, "-c", code, str(prepared), str(tmp_path / "cache")]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_dir()


@pytest.mark.slow
def test_two_ranks_train_through_one_copy(prepared, tmp_path):
    """A real run: both ranks miss at once, one copies, the result is that of the plain folder."""
    spec = make_spec(ranks=2, per_rank_batch=8, global_batch=16, steps=12, epochs=0)
    run_dir, root = tmp_path / "run-1", tmp_path / "cache"
    argv = [*command(spec, run_dir, prepared), "--cache", str(root), "--cache-limit", "1 GB"]
    done = subprocess.run(
        argv, cwd=run_dir, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (entry,) = Cache(root, Limit(size_bytes=10**9)).entries()
    assert not entry.in_use
    assert entry.source == str(prepared)
    plain = execute(spec, tmp_path / "run-2", prepared)
    found = loads(RunResult, (run_dir / "result.json").read_bytes())
    assert found.parameter_hash == plain.result.parameter_hash
    assert "Reading" not in done.stderr
