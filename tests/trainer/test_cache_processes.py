"""The cache among processes: one fill, leases that die with their holders, SIGKILL anywhere."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.trainer.cache_worker import KEYS, SIZE
from tests.trainer.cached import Filler, cache_of, content, keys
from trainer.cache import Cache, CacheError, Health, Limit

REPOSITORY = Path(__file__).resolve().parents[2]
_HOLDER = """
import sys, time
from pathlib import Path
from tests.trainer.cached import Filler, cache_of
lease = cache_of(Path(sys.argv[1])).acquire("a", Filler().of("a"), size_bytes=1000)
print(lease.hit, flush=True)
time.sleep(60)
"""
_FILLER = """
import sys, time
from pathlib import Path
from tests.trainer.cached import cache_of
def fill(folder):
    (folder / "a.bin").write_bytes(b"half")
    print("filling", flush=True)
    time.sleep(60)
cache_of(Path(sys.argv[1])).acquire("a", fill, size_bytes=900)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", code, *(str(word) for word in arguments)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(10)
    if process.stdout:
        process.stdout.close()


def test_a_lease_ends_with_its_holder_and_not_before(tmp_path):
    holder = start(_HOLDER, tmp_path)
    try:
        assert holder.stdout.readline() == "False\n"
        cache = cache_of(tmp_path, entries=1)
        assert cache.entries()[0].in_use
        assert not cache.evict("a")
    finally:
        kill(holder)
    assert not cache.entries()[0].in_use
    assert cache.evict("a")


def test_a_filler_that_is_killed_leaves_nothing_that_counts(tmp_path):
    filling = start(_FILLER, tmp_path)
    try:
        assert filling.stdout.readline() == "filling\n"
        cache = cache_of(tmp_path, entries=1, wait_s=0.2)
        with pytest.raises(CacheError, match=r"holds this lock for more than 0 s.*fuser"):
            Filler().use(cache, "a")
    finally:
        kill(filling)
    assert keys(cache) == []
    assert list((tmp_path / "cache" / "incoming").iterdir()), "it was killed half-way"
    # Neither its half file nor its announcement of 900 bytes is in the way of another entry.
    assert not Filler().use(cache, "b")
    assert list((tmp_path / "cache" / "incoming").iterdir()) == []
    assert not Filler().use(cache, "a")


def test_forked_readers_share_the_lease(tmp_path):
    cache, filler = cache_of(tmp_path), Filler()
    lease = cache.acquire("a", filler.of("a"), size_bytes=1000)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:  # a loader worker that outlives its trainer
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    lease.release()
    assert not cache.evict("a")
    os.close(writer)
    os.waitpid(child, 0)
    os.close(reader)
    assert cache.evict("a")


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.slow
def test_many_processes_and_sigkills(tmp_path, seed):
    """Eight processes on six entries with room for four, one killed every 60 ms or so."""
    rng, root, log = random.Random(seed), tmp_path / "cache", tmp_path / "log"
    workers: list[subprocess.Popen[bytes]] = []

    def spawn() -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "tests.trainer.cache_worker", str(root), str(4 * SIZE)]
        return subprocess.Popen(
            [*argv, str(rng.random())[2:], "30", str(log)], cwd=REPOSITORY, start_new_session=True
        )

    killed = 0
    try:
        workers += [spawn() for _ in range(8)]
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            time.sleep(rng.random() * 0.12)
            victim = rng.randrange(len(workers))
            if workers[victim].poll() is None and log.exists():
                workers[victim].send_signal(signal.SIGKILL)
                workers[victim].wait(10)
                workers[victim] = spawn()
                killed += 1
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(10)
    said = log.read_text().splitlines()
    wrong = [line for line in said if not line.startswith(("fill ", "full"))]
    assert not wrong, wrong[:5]
    assert killed > 10
    assert len([line for line in said if line.startswith("fill ")]) > 10
    check_what_is_left(root)


def check_what_is_left(root: Path) -> None:
    """Every entry that counts is whole, sums are within the limit, and the cache goes on."""
    cache = Cache(root, Limit(size_bytes=4 * SIZE), wait_s=5)
    found = cache.entries()
    assert sum(entry.size_bytes for entry in found) <= 4 * SIZE
    assert not [entry.key for entry in found if entry.in_use]
    assert [cache.verify(entry.key) for entry in found] == [Health.SOUND] * len(found)
    assert cache.quarantined() == []
    filler = Filler(SIZE)
    for key in KEYS:
        filler.use(cache, key)
    assert not list((root / "trash").iterdir())
    assert not list((root / "incoming").iterdir())


def test_processes_that_miss_at_once_fill_once(tmp_path):
    code = """
import sys, time
from pathlib import Path
from tests.trainer.cached import cache_of, content, digests_of
root = Path(sys.argv[1])
def fill(folder):
    (root / f"filled-{time.time_ns()}").touch()
    (folder / "a.bin").write_bytes(content("a", 1000))
    time.sleep(0.3)
    return digests_of(folder)
print("ready", flush=True)
sys.stdin.read()
with cache_of(root).acquire("a", fill, size_bytes=1000) as lease:
    print(lease.hit, (lease.folder / "a.bin").read_bytes() == content("a", 1000), flush=True)
"""
    argv = [sys.executable, "-c", code, str(tmp_path)]
    pipe = subprocess.PIPE
    group = [
        subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=REPOSITORY) for _ in range(4)
    ]
    for one in group:
        assert one.stdout.readline() == "ready\n"
    for one in group:
        one.stdin.close()
    said = []
    for one in group:
        said.append(one.stdout.read().split())
        one.stdout.close()
        assert one.wait(20) == 0
    assert len(list(tmp_path.glob("filled-*"))) == 1
    assert sorted(said) == [["False", "True"], *[["True", "True"]] * 3]
    assert content("a", 1000) != content("b", 1000)
