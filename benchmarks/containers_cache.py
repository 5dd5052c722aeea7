"""The node-local cache against doing without: ``python benchmarks/containers_cache.py``.

``cache_hit_vs_plain``: the rate of acquiring an entry and reading its images through a memory map,
over the rate of reading the same bytes through a map of a plain file. ``cache_miss_vs_raw_get``:
the time of filling an entry from an object store (digest checked, record, rename), over the time
of bare ``minio`` gets of the same objects into files of the same disk.

Both sides of a pair run in this process, one after the other, in alternating order; the first pair
is dropped. Page cache: for the hit all files were read before, on both sides (the strict case: on
a cold cache the disk hides any overhead; that ratio is given beside it, both sides dropped from the
page cache before each read). For the miss the server's files are warm and the written files are
new, on both sides, after everything dirty was written back. Intervals: seeded bootstrap of the
median over pairs of the ratio of neighbours. Prints one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.cache import DESCRIPTION, Cache, Limit, hash_file
from trainyard.datasets.cache import cached
from trainyard.datasets.formats import LAYOUT
from trainyard.datasets.manifest import Manifest, archive_key
from trainyard.datasets.prepared import prefix_of, put_prepared
from trainyard.objectstore import ObjectStore
from trainyard.settings import Settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

GOALS = {"cache_hit_vs_plain": 0.9, "cache_miss_vs_raw_get": 1.2}
_ROW = 32 * 32 * 3


@dataclass(kw_only=True)
class _Lab:
    """A data set on disk, in a store, and a cache."""

    home: Path
    plain: Path
    manifest: Manifest
    settings: Settings
    cache: Cache

    def hit(self) -> int:
        with cached_entry(self) as folder:
            return _read(folder)

    def plain_read(self) -> int:
        return _read(self.plain)

    def miss(self) -> None:
        cached(self.manifest, self.cache, self.settings).release()

    def raw_get(self) -> None:
        store, target = ObjectStore(self.settings), self.home / "raw"
        target.mkdir()
        for path in sorted(self.plain.iterdir()):
            key = prefix_of(self.manifest) + path.name
            response = store.client.get_object(self.settings.s3_bucket, key)
            with (target / path.name).open("wb", 0) as sink:
                for chunk in response.stream(2**20):
                    sink.write(chunk)
            response.release_conn()

    def forget(self) -> None:
        """Remove what the two ways to fetch have written, and let the disk come to rest."""
        for entry in self.cache.entries():
            if not self.cache.evict(entry.key):
                raise RuntimeError(f"{entry.key} is in use")
        shutil.rmtree(self.home / "raw", ignore_errors=True)
        os.sync()


@contextmanager
def cached_entry(lab: _Lab) -> Iterator[Path]:
    """Acquire as a trainer does: through the description that lies beside the shared data."""
    from trainer.stage import stage

    with stage(lab.plain, lab.cache) as lease:
        yield lease.folder


def measure(size_bytes: int = 128 * 2**20, repeats: int = 15) -> dict[str, Any]:
    """Return both ratios with their 95 % intervals, the raw seconds, and whether goals are met."""
    with tempfile.TemporaryDirectory(prefix="trainyard-cache-") as name:
        home = Path(name)
        with _lab(home, size_bytes) as lab:
            miss = _pairs(repeats, lab.miss, lab.raw_get, before=lab.forget)
            lab.forget()
            lab.miss()
            warm = _pairs(repeats, lab.hit, lab.plain_read)
            cold = _pairs(max(repeats // 3, 3), lab.hit, lab.plain_read, before=lambda: _drop(home))
    made = {
        "benchmark": "containers_cache",
        "size_bytes": size_bytes,
        "repeats": repeats,
        "cache_hit_vs_plain": _ratio([(plain, hit) for hit, plain in warm]),
        "cache_hit_vs_plain_cold": _ratio([(plain, hit) for hit, plain in cold]),
        "cache_miss_vs_raw_get": _ratio(miss),
        "seconds": {"miss_raw": miss, "hit_plain": warm, "hit_plain_cold": cold},
        "goals": GOALS,
    }
    made["passed"] = bool(
        made["cache_hit_vs_plain"]["ratio"] >= GOALS["cache_hit_vs_plain"]
        and made["cache_miss_vs_raw_get"]["ratio"] <= GOALS["cache_miss_vs_raw_get"]
    )
    return made


def _pairs(
    repeats: int,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    before: Callable[[], object] = gc.collect,
) -> list[tuple[float, float]]:
    """Time both, one after the other; every second pair in the other order."""
    found = []
    for repeat in range(-1, repeats):
        pair = [(0, ours), (1, theirs)]
        seconds = [0.0, 0.0]
        for place, work in pair if repeat % 2 else reversed(pair):
            before()
            start = time.perf_counter()
            work()
            seconds[place] = time.perf_counter() - start
        if repeat >= 0:
            found.append((seconds[0], seconds[1]))
    return found


def _ratio(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Return the median of the pairs' ratios and its 95 % percentile bootstrap interval."""
    ratios = np.array([ours / theirs for ours, theirs in pairs])
    picks = np.random.default_rng(0).integers(0, len(ratios), (10_000, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return {"ratio": statistics.median(ratios.tolist()), "low": float(low), "high": float(high)}


def _read(folder: Path) -> int:
    """Read every image through a map, a batch at a time, as the trainer does; return a sum."""
    total = 0
    for split in ("train", "test"):
        images = np.load(folder / f"{split}_images.npy", mmap_mode="r")
        total += sum(int(images[i : i + 256].sum()) for i in range(0, len(images), 256))
    return total


def _drop(home: Path) -> None:
    """Drop every file below *home* from the page cache."""
    for path in home.rglob("*.npy"):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _lab(home: Path, size_bytes: int) -> Iterator[_Lab]:
    from tests.fixtures.s3 import serve

    plain, rng = home / "plain", np.random.default_rng(0)
    plain.mkdir()
    for split, count in (("train", size_bytes * 5 // 6 // _ROW), ("test", size_bytes // 6 // _ROW)):
        images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        np.save(plain / f"{split}_images.npy", images)
        np.save(plain / f"{split}_labels.npy", np.arange(count, dtype=np.int64) % 10)
    manifest = _manifest("0" * 64)
    files = {
        p.name: {"size_bytes": p.stat().st_size, "sha256": hash_file(p)}
        for p in sorted(plain.iterdir())
    }
    told = {"name": "bench", "digest": manifest.digest, "layout": LAYOUT, "files": files}
    (plain / DESCRIPTION).write_text(json.dumps(told))
    with closing(serve(home / "objects", home / "rclone.log")) as servers:
        server = next(servers)
        settings = Settings(
            results_url="sqlite://",
            mlflow_url="",
            reports_dir=str(home),
            sites_file="",
            downloads_dir=str(home),
            **server.settings("bench"),
        )
        store = ObjectStore(settings)
        store.ensure_bucket()
        put_prepared(store, manifest, plain)
        cache = Cache(home / "cache", Limit(size_bytes=4 * size_bytes))
        yield _Lab(home=home, plain=plain, manifest=manifest, settings=settings, cache=cache)


def _manifest(digest: str) -> Manifest:
    return Manifest(
        name="bench",
        title="bytes from the random number generator",
        digest=digest,
        size_bytes=0,
        source="generated",
        licence="none",
        homepage="",
        retrieved_at="",
        bucket="bench",
        object_key=archive_key(digest),
        format="none",
        verified=(),
        counts=(),
        classes=(),
        quality=(),
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=128 * 2**20, dest="size_bytes")
    parser.add_argument("--repeats", type=int, default=15)
    told = parser.parse_args()
    print(json.dumps(measure(told.size_bytes, told.repeats)))


if __name__ == "__main__":
    main()
