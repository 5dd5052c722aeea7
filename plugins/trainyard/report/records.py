"""Runs, machines, environment and data set: the evidence behind the numbers, as tables."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from trainyard.report.document import Block, Cell, Log, Paragraph, Section, Table, Tone
from trainyard.report.tables import cells, columns, compact, shorten
from trainyard.report.text import NOTHING, clean, count_of, moment, number, percent, size, whole

if TYPE_CHECKING:
    import pandas as pd

    from trainyard.analysis import Analysis, DatasetFacts, EnvironmentCheck, StudyData

MOST_RUNS = 60
MOST_FAILED = 20
MOST_LOGS = 3
LOG_LINES = 20
LOG_WIDTH = 160
MOST_MACHINES = 12
_TONES: dict[str, Tone] = {"passed": "good", "failed": "bad", "warning": "warn", "warn": "warn"}


def failure_blocks(data: StudyData) -> list[Block]:
    """Return the failed runs with phase, reason and the tails of their logs, or a sentence."""
    failed = data.runs[~data.runs["sane"]]
    if failed.empty:
        return [Paragraph(text="Every recorded run completed and passed its sanity checks.")]
    broken = data.checks[~data.checks["passed"]]
    details = (broken["name"] + ": " + broken["detail"]).groupby(broken["run_id"]).agg("; ".join)
    rows = []
    for run in failed.head(MOST_FAILED).to_dict("records"):
        reason = run["reason"] or details.get(run["run_id"], "") or "no reason was recorded"
        rows.append(
            (
                _linked(run["run_id"], run["mlflow_url"]),
                *cells(
                    _ranked(run["ranks"]),
                    clean(run["status"]),
                    clean(run["phase"]) or NOTHING,
                    shorten(reason, 300),
                ),
            )
        )
    left = len(failed) - len(rows)
    table = Table(
        caption="Runs that failed, were lost or did not pass a sanity check",
        columns=columns("<Run", ">Ranks", "Status", "Phase", "<Reason"),
        rows=tuple(rows),
        note=f"{count_of(left, 'further run')} in the CSV." if left else "",
        csv="tables/runs.csv",
    )
    logs = failed[failed["log_tail"].str.strip() != ""].head(MOST_LOGS)
    return [table, *(_log(run["run_id"], run["log_tail"]) for run in logs.to_dict("records"))]


def _log(run_id: str, text: str) -> Log:
    lines = [line[:LOG_WIDTH] for line in clean(text).splitlines()[-LOG_LINES:]]
    return Log(title=f"Last lines of {clean(run_id)}", text="\n".join(lines))


def _linked(text: str, url: str) -> Cell:
    return Cell(text=shorten(text, 80), href=url)


def _ranked(ranks: float) -> str:
    return f"{ranks:.0f}" if ranks >= 0 else NOTHING


def runs_table(data: StudyData, analysis: Analysis) -> Table:
    """Return the runs in order of their start; the CSV beside it has them all."""
    ordered = data.runs
    rows = []
    reasons = analysis.excluded[ordered.index]
    for run, reason in zip(ordered.head(MOST_RUNS).to_dict("records"), reasons, strict=False):
        rows.append(_run_row(run, reason))
    left = len(ordered) - len(rows)
    table = Table(
        caption="Runs in order of their start",
        columns=columns(
            "Configuration",
            ">Repeat",
            ">Images/s",
            ">Time per step, ms",
            ">Window CV",
            ">Test accuracy",
            "Started",
            "<Kept out of comparisons",
        ),
        rows=tuple(rows),
        note=f"{count_of(left, 'further run')} in the CSV, which also has seeds, versions, "
        "parameter hashes and artifact locations."
        if left
        else "The CSV also has seeds, versions, parameter hashes and artifact locations.",
        csv="tables/runs.csv",
    )
    return compact(table)


def _run_row(run: dict[Hashable, Any], excluded: str) -> tuple[Cell, ...]:
    tone: Tone = "quiet" if excluded else ""
    return (
        Cell(text=shorten(run["name"], 60), href=run["mlflow_url"], tone=tone),
        *cells(
            _ranked(run["repeat"]),
            number(run["images_per_second"], 4),
            number(1e3 * run["step_time_s"], 4),
            percent(run["window_cv"]),
            percent(run["test_accuracy"], 2),
            moment(run["started_at"]),
            shorten(excluded),
            tone=tone,
        ),
    )


def provenance_section(data: StudyData) -> Section:
    """Return machine, versions, environment checks and data set."""
    blocks: list[Block] = [_machines(data.runs), _versions(data.runs)]
    if data.study.triggered_by:
        who = clean(f"Triggered by {data.study.triggered_by}; DAG run {data.study.dag_run_id}.")
        blocks.insert(0, Paragraph(text=who))
    if data.environment:
        blocks.append(_checks("Environment checks before the study", data.environment))
    else:
        blocks.append(
            Paragraph(text="No environment check is recorded for this site.", tone="warn")
        )
    blocks += _dataset(data, data.dataset)
    return Section(anchor="provenance", title="Machine and provenance", blocks=tuple(blocks))


def _distinct(runs: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return the distinct rows of *names* with the number of runs, most frequent first."""
    counted = runs[names].fillna(-1).value_counts(sort=True).reset_index(name="runs_there")
    return counted.sort_values(["runs_there", *names], ascending=[False] + [True] * len(names))


def _machines(runs: pd.DataFrame) -> Table:
    known = runs[runs["hostname"] != ""]
    names = ["hostname", "cpu_model", "cores_usable", "memory_bytes", "gpu_name", "gpu_count"]
    rows = []
    for row in _distinct(known, names).head(MOST_MACHINES).to_dict("records"):
        gpus = f"{row['gpu_count']:.0f} × {clean(row['gpu_name'])}" if row["gpu_name"] else "none"
        rows.append(
            cells(
                clean(row["hostname"]),
                clean(row["cpu_model"]) or NOTHING,
                _ranked(row["cores_usable"]),
                size(row["memory_bytes"]),
                gpus,
                str(row["runs_there"]),
            )
        )
    return Table(
        caption="Machines, as the runs found them",
        columns=columns("Host", "<CPU", ">Cores usable", ">Memory", "GPUs", ">Runs"),
        rows=tuple(rows) or (cells("no run got far enough to say", *[NOTHING] * 5),),
    )


def _versions(runs: pd.DataFrame) -> Table:
    known = runs[runs["torch"] != ""]
    names = [
        "git_commit",
        "git_dirty",
        "python",
        "torch",
        "torchvision",
        "numpy",
        "cuda",
        "nccl",
        "backend",
        "device",
    ]
    rows = []
    for row in _distinct(known, names).head(MOST_MACHINES).to_dict("records"):
        commit = clean(row["git_commit"])[:12] or "unknown"
        software = [f"{name} {clean(row[name])}" for name in ("torch", "torchvision", "numpy")]
        software += [f"CUDA {clean(row['cuda'])}"] if row["cuda"] else []
        software += [f"NCCL {clean(row['nccl'])}"] if row["nccl"] else []
        rows.append(
            cells(
                commit + (" with uncommitted changes" if row["git_dirty"] is True else ""),
                clean(row["python"]),
                clean(", ".join(software)),
                clean(row["backend"]) or NOTHING,
                clean(row["device"]),
                str(row["runs_there"]),
            )
        )
    return Table(
        caption="Code and versions",
        columns=columns("Commit", "Python", "<Libraries", "Collectives", "Device", ">Runs"),
        rows=tuple(rows) or (cells("no run got far enough to say", *[NOTHING] * 5),),
    )


def _checks(caption: str, checks: tuple[EnvironmentCheck, ...]) -> Table:
    return Table(
        caption=caption,
        columns=columns("Check", "<Measured", "<Required", "Verdict"),
        rows=tuple(
            (
                *cells(
                    shorten(check.name),
                    shorten(check.measured) or NOTHING,
                    shorten(check.requirement) or NOTHING,
                ),
                Cell(text=shorten(check.verdict) or NOTHING, tone=_TONES.get(check.verdict, "")),
            )
            for check in checks
        ),
    )


def _dataset(data: StudyData, facts: DatasetFacts | None) -> list[Block]:
    digest = data.study.dataset_digest
    if facts is None:
        text = f"Data set {data.study.dataset or 'unknown'}, digest {digest or 'unknown'}; its "
        return [Paragraph(text=clean(text + "manifest was not found."), tone="warn")]
    samples = NOTHING
    if facts.train_samples or facts.test_samples:
        samples = f"{whole(facts.train_samples)} train, {whole(facts.test_samples)} test"
    pairs = [
        ("Name", facts.name),
        ("SHA-256 of the archive", facts.digest),
        ("Size", size(facts.size_bytes)),
        ("Samples", samples),
        ("Source", facts.source),
        ("Licence", facts.licence),
        ("Retrieved", moment(facts.retrieved_at)),
        ("Object", facts.object_key),
    ]
    blocks: list[Block] = [
        Table(
            caption="Data set",
            columns=columns("Fact", "<Value"),
            rows=tuple(cells(name, shorten(value, 200) or NOTHING) for name, value in pairs),
        )
    ]
    if digest and facts.digest and digest != facts.digest:
        text = f"The study names digest {digest}, the manifest {facts.digest}: they differ."
        blocks.append(Paragraph(text=clean(text), tone="bad"))
    if facts.quality:
        blocks.append(_checks("Quality checks of the data set", facts.quality))
    return blocks
