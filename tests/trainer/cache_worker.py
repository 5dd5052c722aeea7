"""A process of the cache's stress test: acquires at random, checks what it reads, may be killed.

``python -m tests.trainer.cache_worker ROOT LIMIT SEED SECONDS LOG``: prints nothing; every
violation becomes a line of LOG, every fill a line ``fill KEY``.
"""

from __future__ import annotations

import fcntl
import os
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.trainer.cached import content, digests_of
from trainer.cache import Cache, CacheFullError, Limit

KEYS = [f"k{n}" for n in range(6)]
SIZE = 64 * 1024


def main(root: str, limit: str, seed: str, seconds: str, log: str) -> None:
    cache, rng = Cache(Path(root), Limit.parse(limit), wait_s=20), random.Random(int(seed))
    deadline = time.monotonic() + float(seconds)
    with Path(log).open("a", buffering=1) as sink:
        while time.monotonic() < deadline:
            key = rng.choice(KEYS)

            def fill(folder: Path, key: str = key) -> Mapping[str, str]:
                # The kernel frees this lock with its holder, as it does the cache's own.
                mark = os.open(Path(root).parent / f"filling-{key}", os.O_CREAT | os.O_RDWR)
                try:
                    fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    sink.write(f"two fill {key}\n")
                (folder / "a.bin").write_bytes(content(key, SIZE)[: SIZE // 2])
                time.sleep(rng.random() * 0.004)
                (folder / "a.bin").write_bytes(content(key, SIZE))
                os.close(mark)
                sink.write(f"fill {key}\n")
                return digests_of(folder)

            try:
                with cache.acquire(key, fill, size_bytes=SIZE) as lease:
                    path = lease.folder / "a.bin"
                    for _ in range(3):
                        if path.read_bytes() != content(key, SIZE):
                            sink.write(f"wrong bytes in {key}\n")
                        time.sleep(rng.random() * 0.002)
            except FileNotFoundError as error:
                sink.write(f"gone while leased: {error}\n")
            except CacheFullError:
                sink.write("full\n")
            if rng.random() < 0.1:
                cache.evict(rng.choice(KEYS))


if __name__ == "__main__":
    main(*sys.argv[1:])
