"""Complete small records for tests of what happens around a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.contract import (
    Check,
    Dataset,
    Metric,
    Phase,
    Provenance,
    RunResult,
    RunSpec,
    Status,
    Window,
    WindowKind,
)
from trainyard.sites import Site

SPEC = RunSpec(name="strong-b64-n1", dataset=Dataset.SYNTHETIC, steps=20)


def site(folder: Path, python: str = "/usr/bin/python3", **changes: Any) -> Site:
    """Return a site whose folders lie in *folder*."""
    values: dict[str, Any] = {
        "name": "here",
        "python": python,
        "runs_dir": str(folder / "runs"),
        "data_dir": str(folder / "data"),
        "cores": 2,
        "largest_ranks": 4,
    }
    return Site(**(values | changes))


def result(run_id: str, spec: RunSpec = SPEC, **changes: Any) -> RunResult:
    """Return the record of a good run."""
    made = RunResult(
        run_id=run_id,
        spec_id=spec.spec_id,
        status=Status.COMPLETED,
        phase=Phase.FINISHED,
        sanity=(Check(name="loss_finite", passed=True),),
        metrics=(
            Metric(name="images_per_second", value=100.0, unit="image/s"),
            Metric(name="step_time_s", value=0.64, unit="s"),
        ),
        windows=(
            Window(
                kind=WindowKind.TRAIN,
                index=0,
                steps=20,
                images=1280,
                seconds_by_rank=(12.8,) * spec.ranks,
            ),
        ),
        parameter_hash="0" * 64,
        provenance=Provenance(
            git_commit="",
            git_dirty=False,
            python="3.11.7",
            torch="2.15.0",
            torchvision="0.30.0",
            numpy="2.4.0",
            backend="gloo",
            device="cpu",
            argv=("python", "-m", "trainer"),
            started_at="2026-11-22T02:00:00+00:00",
            ended_at="2026-11-22T02:00:20+00:00",
        ),
    )
    return replace(made, **changes)
