"""Staging against a bare upload: ``python benchmarks/staging.py [--bytes N] [--repeats N]``.

Staging throughput = bytes of an archive on local disk, over the time from there until the store
shows the verified archive under its content address and the manifest that names it
(``store_archive``: SHA-256 of the whole, multipart put, manifest put). The base is a bare
``minio`` multipart put of the same file to the same server with the same part size and number of
parallel parts. Both run in fresh processes, in turn, in alternating order, against one real S3
server (rclone over a local folder); the file is in the page cache for both. Download and
inspection of the images are not in it: a network and a gzip stream would hide what it asks.

Prints progress on stderr and one JSON object as the last line of stdout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainyard.datasets.manifest import Manifest, archive_key
from trainyard.datasets.stage import store_archive
from trainyard.objectstore import ObjectStore
from trainyard.s3transfer import parallel_parts, part_size
from trainyard.settings import Settings

GOAL_RATIO, GOAL_MEMORY = 0.8, 200_000_000


def measure(size_bytes: int = 1_000_000_000, repeats: int = 5) -> dict[str, Any]:
    """Return throughputs [B/s], their ratio with a 95 % interval, and peak memory [B].

    The interval is a seeded bootstrap of the ratio of median times over pairs of neighbouring
    runs. ``memory_bytes`` is the largest peak resident size of a staging process, interpreter and
    libraries included.
    """
    with tempfile.TemporaryDirectory(prefix="trainyard-staging-") as name:
        home = Path(name)
        archive, digest = _archive(home, size_bytes)
        with _server(home) as store:
            runs = _interleaved(home, store, archive, digest, repeats)
    stage = [run["seconds"] for run in runs if run["what"] == "stage"]
    raw = [run["seconds"] for run in runs if run["what"] == "raw"]
    low, high = _interval(stage, raw)
    ratio = statistics.median(raw) / statistics.median(stage)
    memory = max(run["memory_bytes"] for run in runs if run["what"] == "stage")
    return {
        "benchmark": "staging",
        "size_bytes": size_bytes,
        "repeats": repeats,
        "stage_bytes_per_s": size_bytes / statistics.median(stage),
        "raw_put_bytes_per_s": size_bytes / statistics.median(raw),
        "stage_vs_raw_put": ratio,
        "stage_vs_raw_put_ci95": [low, high],
        "memory_bytes": memory,
        "raw_memory_bytes": max(run["memory_bytes"] for run in runs if run["what"] == "raw"),
        "stage_cpu_s": _median(runs, "stage", "cpu_seconds"),
        "raw_put_cpu_s": _median(runs, "raw", "cpu_seconds"),
        "stage_seconds": stage,
        "raw_put_seconds": raw,
        "part_bytes": part_size(size_bytes),
        "parallel_parts": parallel_parts(size_bytes),
        "goals": {"stage_vs_raw_put": GOAL_RATIO, "memory_bytes": GOAL_MEMORY},
        "passed": ratio >= GOAL_RATIO and memory <= GOAL_MEMORY,
    }


def _median(runs: list[dict[str, Any]], what: str, field: str) -> float:
    values: list[float] = [run[field] for run in runs if run["what"] == what]
    return statistics.median(values)


def _archive(home: Path, size_bytes: int) -> tuple[Path, str]:
    """Write a file that no transport can compress, and return it with its SHA-256."""
    path, hashed = home / "archive", hashlib.sha256()
    with path.open("wb") as stream:
        left = size_bytes
        while left:
            block = os.urandom(min(left, 2**22))
            hashed.update(block)
            stream.write(block)
            left -= len(block)
    return path, hashed.hexdigest()


@contextmanager
def _server(home: Path) -> Iterator[Settings]:
    """Run ``rclone serve s3`` and yield settings for it."""
    beside = Path(sys.executable).with_name("rclone")
    program = str(beside) if beside.exists() else shutil.which("rclone")
    if program is None:
        sys.exit("rclone is missing: install requirements/airflow.txt (`make setup`)")
    access, secret = secrets.token_hex(8), secrets.token_hex(16)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    objects = home / "objects"
    objects.mkdir()
    key = f"{access},{secret}"
    argv = [program, "serve", "s3", "--auth-key", key, "--addr", endpoint, str(objects)]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(endpoint)
            yield Settings(
                results_url="sqlite://",
                s3_endpoint=endpoint,
                s3_access_key=access,
                s3_secret_key=secret,
                s3_bucket="bench",
                mlflow_url="",
                reports_dir=str(home),
                sites_file="",
                downloads_dir=str(home),
            )
        finally:
            process.kill()


def _wait(endpoint: str) -> None:
    for _ in range(200):
        try:
            with urllib.request.urlopen(f"http://{endpoint}/", timeout=2):
                return
        except urllib.error.HTTPError as answer:
            answer.close()
            return  # it asks for a signature: it is up
        except OSError:
            time.sleep(0.05)
    sys.exit(f"the S3 server does not answer on {endpoint}")


def _interleaved(
    home: Path, settings: Settings, archive: Path, digest: str, repeats: int
) -> list[dict[str, Any]]:
    """Run both in turn; every second pair in the other order, so that drift favours neither."""
    job = home / "job.json"
    fields = {name: getattr(settings, name) for name in settings.__slots__}
    job.write_text(json.dumps({"settings": fields, "archive": str(archive), "digest": digest}))
    ObjectStore(settings).ensure_bucket()
    runs = []
    for repeat in range(-1, repeats):  # the first pair warms caches and is dropped
        order = ("stage", "raw") if repeat % 2 == 0 else ("raw", "stage")
        for what in order:
            argv = [sys.executable, __file__, "--child", what, str(job)]
            done = subprocess.run(argv, check=True, capture_output=True, text=True)
            run = json.loads(done.stdout.splitlines()[-1])
            _log(
                f"pair {repeat}: {what} {run['seconds']:.2f} s, {run['memory_bytes'] / 1e6:.0f} MB"
            )
            if repeat >= 0:
                runs.append(run)
    return runs


def _child(what: str, job: Path) -> None:
    """Do one upload in this process, remove it again, print seconds and peak memory."""
    told = json.loads(job.read_text())
    settings = Settings(**told["settings"])
    archive, digest = Path(told["archive"]), told["digest"]
    store = ObjectStore(settings)
    store.exists("warm-up")  # region look-up and connection: neither side pays for it
    manifest = _manifest(archive.stat().st_size, digest, settings.s3_bucket)
    start, busy = time.perf_counter(), time.process_time()
    if what == "stage":
        store_archive(store, manifest, archive)
    else:
        size = archive.stat().st_size
        with archive.open("rb", buffering=0) as stream:
            store.client.put_object(
                settings.s3_bucket,
                manifest.object_key,
                stream,
                size,
                part_size=part_size(size),
                num_parallel_uploads=parallel_parts(size),
            )
    seconds = time.perf_counter() - start
    cpu = time.process_time() - busy
    store.remove(manifest.object_key)
    told = {"what": what, "seconds": seconds, "cpu_seconds": cpu, "memory_bytes": _peak()}
    print(json.dumps(told))


def _manifest(size_bytes: int, digest: str, bucket: str) -> Manifest:
    return Manifest(
        name="bench",
        title="bytes from the random number generator",
        digest=digest,
        size_bytes=size_bytes,
        source="generated",
        licence="none",
        homepage="",
        retrieved_at="",
        bucket=bucket,
        object_key=archive_key(digest),
        format="none",
        verified=(),
        counts=(),
        classes=(),
        quality=(),
    )


def _peak() -> int:
    """Return the peak resident size of this process in bytes (Linux counts VmHWM in KiB)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status names no VmHWM: this benchmark needs Linux")


def _interval(stage: list[float], raw: list[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of median(raw) / median(stage) over pairs."""
    import numpy as np

    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(stage), (10_000, len(stage)))
    ratios = np.median(np.array(raw)[picks], axis=1) / np.median(np.array(stage)[picks], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=1_000_000_000, dest="size_bytes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "JOB"), help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child:
        _child(told.child[0], Path(told.child[1]))
        return
    print(json.dumps(measure(told.size_bytes, told.repeats)))


if __name__ == "__main__":
    main()
