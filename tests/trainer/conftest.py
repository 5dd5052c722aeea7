"""What the trainer's tests share: small separable data, and runs as real processes."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.requirements import need
from trainer.contract import Dataset, Model, RunResult, RunSpec, dumps, loads

REPOSITORY = Path(__file__).resolve().parents[2]
DIGEST = "d" * 64


def make_spec(**changes: object) -> RunSpec:
    """Return a spec of the small network on the digits-like data; batches follow the changes."""
    values: dict[str, object] = {
        "name": "test",
        "model": Model.RESNET18_SMALL,
        "dataset": Dataset.DIGITS,
        "dataset_digest": DIGEST,
        "per_rank_batch": 16,
        "epochs": 2,
        "warmup_steps": 2,
        "window_steps": 4,
        "collective_timeout_s": 20,
    }
    values |= changes
    if "global_batch" not in changes:
        product = 1
        for name in ("per_rank_batch", "ranks", "accumulation"):
            product *= int(values.get(name, 1))
        values["global_batch"] = product
    return RunSpec(**values)


def write_data(
    folder: Path, images: dict[str, np.ndarray], labels: dict[str, np.ndarray], name: str = "digits"
) -> Path:
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        np.save(folder / f"{split}_images.npy", images[split])
        np.save(folder / f"{split}_labels.npy", labels[split].astype(np.int64))
    described = {"name": name, "digest": DIGEST, "classes": [str(i) for i in range(10)]}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def separable(folder: Path, train: int = 150, test: int = 61) -> Path:
    """Write digits-like data: a pattern per class under noise; counts no batch divides."""
    random = np.random.default_rng(7)
    patterns = np.kron(random.integers(0, 256, (10, 8, 8)), np.ones((1, 4, 4), dtype=np.int64))
    images, labels = {}, {}
    for split, count in (("train", train), ("test", test)):
        labels[split] = np.arange(count) % 10
        noisy = patterns[labels[split]] + random.integers(-40, 41, (count, 32, 32))
        images[split] = np.clip(noisy, 0, 255).astype(np.uint8)[..., None]
    return write_data(folder, images, labels)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Folder of 150 training and 61 test samples."""
    return separable(tmp_path_factory.mktemp("data") / "digits")


@pytest.fixture(scope="session")
def real_digits(tmp_path_factory) -> Path:
    """The UCI digits as scikit-learn ships them in the Airflow environment, prepared."""
    python = REPOSITORY / ".trainyard/envs/airflow/bin/python"
    found = ""
    if python.exists():
        ask = "import importlib.util as u; print(u.find_spec('sklearn').origin)"
        answer = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
        found = answer.stdout.strip()
    archive = Path(found).parent / "datasets/data/digits.csv.gz"
    need(found and archive.exists(), "scikit-learn's digits (Airflow environment)")
    table = np.loadtxt(io.BytesIO(gzip.decompress(archive.read_bytes())), delimiter=",")
    pixels = np.kron(table[:, :64].reshape(-1, 8, 8), np.ones((1, 4, 4))) * 255 / 16
    order = np.random.default_rng(1).permutation(len(table))
    parts = {"test": order[:360], "train": order[360:]}
    return write_data(
        tmp_path_factory.mktemp("real") / "digits",
        {k: pixels[v].astype(np.uint8)[..., None] for k, v in parts.items()},
        {k: table[v, 64] for k, v in parts.items()},
    )


@dataclass
class Finished:
    """A run that ended."""

    code: int
    run_dir: Path
    output: str

    @property
    def result(self) -> RunResult:
        return loads(RunResult, (self.run_dir / "result.json").read_bytes())

    @property
    def events(self) -> list[dict]:
        return [
            json.loads(line) for line in (self.run_dir / "metrics.jsonl").read_text().splitlines()
        ]

    def metric(self, name: str) -> float:
        value = self.result.metric(name)
        assert value is not None, f"{name} was not measured"
        return value


def command(spec: RunSpec, run_dir: Path, data: Path | None) -> list[str]:
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "spec.json").write_text(dumps(spec))
    arguments = ["-m", "trainer", str(run_dir / "spec.json"), str(run_dir)]
    if data is not None:
        arguments += ["--data", str(data)]
    if spec.ranks == 1:
        return [sys.executable, *arguments]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--max-restarts", "0"]
    return [sys.executable, *torchrun, "--nproc-per-node", str(spec.ranks), *arguments]


def environment(**more: str) -> dict[str, str]:
    """The tests' environment with no GPU and the repository on the path."""
    return os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)} | more


def execute(
    spec: RunSpec, run_dir: Path, data: Path | None, *, prefix: tuple[str, ...] = (), **env: str
) -> Finished:
    """Run *spec* to its end as a user would: a process of its own, torchrun for several ranks."""
    done = subprocess.run(
        [*prefix, *command(spec, run_dir, data)],
        cwd=run_dir,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return Finished(code=done.returncode, run_dir=run_dir, output=done.stdout + done.stderr)


@dataclass
class Ranks:
    """Ranks started by hand, without torchrun, so that nothing but gloo links their fates."""

    processes: list[subprocess.Popen]
    run_dir: Path

    def wait(self, seconds: float) -> list[int]:
        deadline = time.monotonic() + seconds
        return [p.wait(max(0.1, deadline - time.monotonic())) for p in self.processes]

    def wait_for(self, event: str, seconds: float = 60) -> None:
        """Return once rank 0 printed *event* into metrics.jsonl."""
        deadline = time.monotonic() + seconds
        path = self.run_dir / "metrics.jsonl"
        while time.monotonic() < deadline:
            if path.exists() and f'"event": "{event}"' in path.read_text():
                return
            assert self.processes[0].poll() is None, (self.run_dir / "rank-0.log").read_text()
            time.sleep(0.05)
        raise AssertionError(f"no {event} within {seconds} s")


@pytest.fixture
def start_ranks(tmp_path) -> Callable[..., Ranks]:
    """Start the ranks of a spec as bare processes; whatever still runs is killed at the end."""
    started: list[subprocess.Popen] = []

    def start(spec: RunSpec, data: Path | None, prefixes: dict[int, list[str]] | None = None):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        run_dir = tmp_path / "run"
        line = command(
            dataclasses.replace(
                spec, ranks=1, per_rank_batch=spec.global_batch // spec.accumulation
            ),
            run_dir,
            data,
        )
        (run_dir / "spec.json").write_text(dumps(spec))
        for rank in range(spec.ranks):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": spec.ranks}
            place |= {"LOCAL_WORLD_SIZE": spec.ranks, "MASTER_PORT": port}
            env = environment(MASTER_ADDR="127.0.0.1", **{k: str(v) for k, v in place.items()})
            log = (run_dir / f"rank-{rank}.log").open("w")
            prefix = (prefixes or {}).get(rank, [])
            started.append(
                subprocess.Popen([*prefix, *line], env=env, stdout=log, stderr=log, cwd=run_dir)
            )
            log.close()
        return Ranks(processes=list(started), run_dir=run_dir)

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
