"""A report from many stored runs: ``python benchmarks/report_scale.py [--runs N]``.

Fills a SQLite results database through the store's own API with complete records (spec, result,
16 timed windows, epochs, checks, machine, provenance) of one strong and weak study: 30
configurations on 1 to 16 ranks, with flagged and failed runs among them. Then a fresh process
reads the study and writes the report with HTML, PDF, every figure and every table; ``seconds`` is
that process from start to end, interpreter and imports included (their bytecode compiled before,
as an install leaves it). Filling is not in it.

Prints progress on stderr and one JSON object as the last line of stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from trainer.contract import (
    Check,
    Control,
    Dataset,
    Epoch,
    Flag,
    Machine,
    Metric,
    Phase,
    Provenance,
    RunResult,
    RunSpec,
    Scaling,
    Status,
    Window,
    WindowKind,
)
from trainyard.store import RunRow, StudyRow, migrate, open_store

GOAL_SECONDS = 10.0
STUDY = "report-scale"
DIGEST = "5" * 64
RANKS = (1, 2, 4, 8, 16)
GLOBAL_BATCHES = (256, 512, 1024)
PER_RANK_BATCHES = (32, 128, 512)
FAILED_EVERY, FLAGGED_EVERY = 100, 50
START = datetime(2026, 1, 5, 2, tzinfo=UTC)

MACHINE = Machine(
    hostname="bench-01",
    os="Linux",
    kernel="6.8",
    cpu_model="EPYC 9554",
    cores_total=64,
    cores_usable=64,
    memory_bytes=2**36,
)


def measure(runs: int = 10_000) -> dict[str, Any]:
    """Return the seconds from *runs* stored runs to a whole report, and what they went into."""
    with tempfile.TemporaryDirectory(prefix="trainyard-report-") as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'results.db'}"
        began = time.perf_counter()
        fill(url, runs)
        say(f"filled {runs} runs in {time.perf_counter() - began:.0f} s, reporting …")
        env = compiled(folder / "bytecode")
        command = [sys.executable, str(Path(__file__).resolve())]
        command += ["--report", url, str(folder / "made")]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        parts = json.loads(done.stdout.strip().splitlines()[-1])
        sizes = {
            path.name: path.stat().st_size for path in sorted((folder / "made").glob("report.*"))
        }
    return {
        "runs": runs,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "goal_seconds": GOAL_SECONDS,
        "met": seconds <= GOAL_SECONDS,
        "parts": parts | {"start": round(seconds - sum(parts.values()), 2)},
        "bytes": sizes,
    }


def compiled(folder: Path) -> dict[str, str]:
    """Return an environment in which every module is compiled already, as an install leaves it."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(folder)
    imports = "import trainyard.report.pdf, trainyard.store, typst; from trainyard.report import *;"
    imports += "import matplotlib.backends.backend_svg, matplotlib.backends.backend_agg, jinja2"
    subprocess.run([sys.executable, "-c", imports], check=True, env=env)
    return env


def say(text: str) -> None:
    """Print progress where it does not mix with the result."""
    print(text, file=sys.stderr, flush=True)


def fill(url: str, runs: int) -> None:
    """Store one study of *runs* runs."""
    rng = random.Random(3)
    specs = list(configurations())
    with open_store(url) as store:
        migrate(store)
        store.save_study(
            StudyRow(
                study_id=STUDY,
                suite="scaling",
                site="local",
                dataset="cifar10",
                dataset_digest=DIGEST,
                repeats=-(-runs // len(specs)),
                order_seed=3,
                status="completed",
                created_at=START.isoformat(),
            )
        )
        for place in range(runs):
            spec = specs[place % len(specs)]
            store.save_run(run_row(spec, place, place // len(specs), rng))
            if place % 1000 == 0:
                say(f"  {place} runs stored")


def configurations() -> Iterator[RunSpec]:
    """Yield every configuration once."""
    for ranks in RANKS:
        for batch in GLOBAL_BATCHES:
            yield _spec(Scaling.STRONG, ranks, batch // ranks)
        for batch in PER_RANK_BATCHES:
            yield _spec(Scaling.WEAK, ranks, batch)


def _spec(mode: Scaling, ranks: int, per_rank: int) -> RunSpec:
    return RunSpec(
        name=f"{mode}-b{per_rank * ranks}-n{ranks}",
        dataset=Dataset.CIFAR10,
        dataset_digest=DIGEST,
        scaling=mode,
        ranks=ranks,
        per_rank_batch=per_rank,
        global_batch=per_rank * ranks,
        epochs=3,
        controls=(Control.SYNTHETIC_INPUT, Control.NO_SYNC),
    )


def run_row(spec: RunSpec, place: int, repeat: int, rng: random.Random) -> RunRow:
    """Return one complete run: 1 in 100 failed, 1 in 50 flagged, the others valid."""
    run_id = f"run-{place:05d}"
    began = START + timedelta(seconds=60 * place)
    failed = place % FAILED_EVERY == FAILED_EVERY - 1
    return RunRow(
        run_id=run_id,
        study_id=STUDY,
        site="local",
        launcher="process",
        suite="scaling",
        status="failed" if failed else "completed",
        phase="train" if failed else "finished",
        reason="rank 1 left the collective" if failed else "",
        log_tail="RuntimeError: connection closed by peer\n" * 20 if failed else "",
        spec=spec,
        result=None if failed else _result(spec, run_id, place, began, rng),
        repeat=repeat,
        exit_code=1 if failed else 0,
        submitted_at=began.isoformat(),
        mlflow_url=f"http://localhost:5000/#/experiments/1/runs/{place:032x}",
    )


def _result(
    spec: RunSpec, run_id: str, place: int, began: datetime, rng: random.Random
) -> RunResult:
    seconds = (0.002 + 1.4e-4 * spec.per_rank_batch) * (1 + 0.004 * spec.ranks)
    seconds *= rng.lognormvariate(0, 0.02)
    flagged = place % FLAGGED_EVERY == FLAGGED_EVERY - 1
    return RunResult(
        run_id=run_id,
        spec_id=spec.spec_id,
        status=Status.COMPLETED,
        phase=Phase.FINISHED,
        sanity=tuple(
            Check(name=name, passed=True, detail="ok")
            for name in ("loss_finite", "ranks_agree", "reached_end", "samples_once")
        ),
        flags=(Flag.UNSTABLE,) if flagged else (),
        flag_details=("window CV 7.3 % > 5 %",) if flagged else (),
        metrics=tuple(_metrics(spec, seconds, rng)),
        windows=tuple(_windows(spec, seconds, rng)),
        epochs=tuple(
            Epoch(
                index=i,
                steps=98,
                images=50_000,
                seconds=98 * seconds,
                train_loss=2.3 * 0.5 ** (i + 1),
                train_accuracy=1 - 0.5 ** (i + 1),
            )
            for i in range(3)
        ),
        parameter_hash="a" * 64,
        machines=(MACHINE,),
        provenance=_provenance(began),
    )


def _provenance(began: datetime) -> Provenance:
    return Provenance(
        git_commit="49e9f55c0ffee49e9f55c0ffee49e9f55c0ffee4",
        git_dirty=False,
        python="3.11.9",
        torch="2.15.0",
        torchvision="0.30.0",
        numpy="2.4.6",
        backend="gloo",
        device="cpu",
        argv=("python", "-m", "trainer"),
        started_at=began.isoformat(),
        ended_at=(began + timedelta(seconds=50)).isoformat(),
    )


def _metrics(spec: RunSpec, seconds: float, rng: random.Random) -> Iterator[Metric]:
    values = {
        "images_per_second": (spec.global_batch / seconds, "image/s"),
        "step_time_s": (seconds, "s"),
        "step_time_synthetic_s": (seconds * rng.gauss(0.95, 0.004), "s"),
        "step_time_no_sync_s": (seconds * rng.gauss(1 - 0.004 * spec.ranks, 0.004), "s"),
        "epoch_time_s": (98 * seconds, "s"),
        "train_loss": (0.29, "1"),
        "train_accuracy": (0.88, "1"),
        "test_accuracy": (rng.gauss(0.91, 0.003), "1"),
        "peak_memory_bytes": (5e8, "B"),
        "window_cv": (0.012, "1"),
        "rank_imbalance": (0.01, "1"),
        "cpu_busy_cores": (float(spec.ranks), "cores"),
        "train_wall_s": (45.0, "s"),
    }
    for name, (value, unit) in values.items():
        yield Metric(name=name, value=value, unit=unit)


def _windows(spec: RunSpec, seconds: float, rng: random.Random) -> Iterator[Window]:
    counts = {WindowKind.TRAIN: 10, WindowKind.SYNTHETIC_INPUT: 3, WindowKind.NO_SYNC: 3}
    for kind, count in counts.items():
        for index in range(count):
            lengths = tuple(20 * seconds * rng.lognormvariate(0, 0.01) for _ in range(spec.ranks))
            yield Window(
                kind=kind,
                index=index,
                steps=20,
                images=20 * spec.global_batch,
                seconds_by_rank=lengths,
                foreign_load=0.02,
            )


def report(url: str, folder: Path) -> dict[str, float]:
    """Make the report as the pipeline does; return seconds by part."""
    began = time.perf_counter()
    from trainyard.analysis import StudyData
    from trainyard.report import build

    imported = time.perf_counter()
    with open_store(url) as store:
        frames: dict[str, Any] = {
            name: store.frame(f"study_{name}", study_id=STUDY)
            for name in ("runs", "windows", "epochs", "checks")
        }
        data = StudyData.of(study=store.query("study", study_id=STUDY)[0], **frames)
    read = time.perf_counter()
    timings: dict[str, float] = {}
    build(data, folder, timings=timings)
    parts = {"import": imported - began, "read": read - imported, **timings}
    return {name: round(value, 2) for name, value in parts.items()}


def main() -> None:
    """Measure, or with ``--report`` be the measured process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--report", nargs=2, metavar=("URL", "FOLDER"))
    given = parser.parse_args()
    if given.report:
        print(json.dumps(report(given.report[0], Path(given.report[1]))))
        return
    print(json.dumps(measure(given.runs)))


if __name__ == "__main__":
    main()
