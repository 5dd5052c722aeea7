"""What a run leaves behind: metrics.jsonl and epochs.csv while it goes on, result.json at its end.

Only rank 0 writes. ``metrics.jsonl`` holds one JSON object a line, flushed at once: events
``phase`` (name), ``plan`` (steps in all), ``window`` (a ``Window`` with its loss; those of real
steps also with what they used: CPU seconds of all ranks, and of rank 0 the seconds it waited for
data and ``usage.now``), ``epoch`` (an ``Epoch``), ``flag`` and ``result`` (status). ``epochs.csv``
holds a row per epoch with what a spreadsheet needs to stand
alone.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.contract import (
    Epoch,
    Machine,
    Phase,
    Provenance,
    RunResult,
    RunSpec,
    Status,
    Window,
    dumps,
    encode,
)
from trainer.files import write_atomic
from trainer.place import Place
from trainer.provenance import Git, now, provenance


@dataclass(kw_only=True)
class Journal:
    """The records of one run as they grow; also what a failed run has to show."""

    run_dir: Path
    place: Place
    git: Git
    spec: RunSpec | None = None
    phase: Phase = Phase.LAUNCH
    started_at: str = field(default_factory=now)
    backend: str = "none"
    device: str = "cpu"
    windows: list[Window] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    machines: tuple[Machine, ...] = ()

    @property
    def result_path(self) -> Path:
        """Where result.json goes."""
        return self.run_dir / "result.json"

    def enter(self, phase: Phase) -> None:
        """Note that the run is now in *phase*."""
        if phase is not self.phase:
            self.phase = phase
            self.event("phase", name=phase.value)

    def event(self, event: str, **fields: object) -> None:
        """Append one line to metrics.jsonl; the time is UTC."""
        if not self.place.first:
            return
        line = {"event": event, "time": now()} | {k: encode(v) for k, v in fields.items()}
        with (self.run_dir / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")

    def add_window(self, window: Window, **more: object) -> None:
        """Keep and print a timed window."""
        self.windows.append(window)
        self.event("window", **encode(window), seconds=window.seconds, **more)

    def add_epoch(self, epoch: Epoch) -> None:
        """Keep and print an epoch."""
        self.epochs.append(epoch)
        self.event("epoch", **encode(epoch))
        if self.place.first and self.spec is not None:
            # Appended while training: an fsync per epoch would be paid in training time.
            rows = csv_rows(self.run_dir.name, self.spec, self.provenance(), [epoch])
            with (self.run_dir / "epochs.csv").open("a") as stream:
                stream.write(csv_text(rows, header=stream.tell() == 0))

    def write_csv(self) -> None:
        """Write epochs.csv anew, in one step: complete, with the test accuracy at its end."""
        if self.place.first and self.spec is not None and self.epochs:
            rows = csv_rows(self.run_dir.name, self.spec, self.provenance(), self.epochs)
            write_atomic(self.run_dir / "epochs.csv", csv_text(rows).encode())

    def provenance(self) -> Provenance:
        """Return what has run from the beginning until now."""
        return provenance(
            self.git, backend=self.backend, device=self.device, started_at=self.started_at
        )

    def write_result(self, result: RunResult) -> None:
        """Write result.json in one step."""
        write_atomic(self.result_path, dumps(result).encode())
        self.event("result", status=result.status.value, reason=result.reason)

    def failed(self, reason: str, phase: Phase | None = None) -> RunResult:
        """Return the result of a run that ends here for *reason*, with what it measured so far."""
        return RunResult(
            run_id=self.run_dir.name,
            spec_id=self.spec.spec_id if self.spec else "",
            status=Status.FAILED,
            phase=phase or self.phase,
            reason=reason,
            windows=tuple(self.windows),
            epochs=tuple(self.epochs),
            machines=self.machines,
            provenance=self.provenance(),
        )


_CODE_COLUMNS = (
    *("device", "backend", "git_commit", "git_dirty"),
    *("python", "torch", "torchvision", "numpy", "cuda", "nccl"),
)


def csv_rows(
    run_id: str, spec: RunSpec, source: Provenance, epochs: Iterable[Epoch]
) -> list[dict[str, Any]]:
    """Return one row per epoch; every row names the run, its configuration and its code."""
    run = {
        "run_id": run_id,
        "job_id": source.job_id,
        "nodes": spec.nodes,
        "ranks": spec.ranks,
        "per_rank_batch": spec.per_rank_batch,
        "accumulation": spec.accumulation,
        "global_batch": spec.global_batch,
        "precision": spec.precision.value,
    }
    code = {name: getattr(source, name) for name in _CODE_COLUMNS}
    return [run | _epoch_columns(epoch) | code for epoch in epochs]


def _epoch_columns(epoch: Epoch) -> dict[str, Any]:
    return {
        "epoch": epoch.index,
        "steps": epoch.steps,
        "images": epoch.images,
        "images_per_second": epoch.images / epoch.seconds if epoch.seconds else "",
        "epoch_time_s": epoch.seconds,
        "train_loss": epoch.train_loss,
        "train_accuracy": epoch.train_accuracy,
        "test_accuracy": "" if epoch.test_accuracy is None else epoch.test_accuracy,
    }


def csv_text(rows: list[dict[str, Any]], *, header: bool = True) -> str:
    """Return *rows* as CSV, with a *header* or without."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
