"""A stored study of any size: complete records as a night leaves them, made from a seed."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

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
