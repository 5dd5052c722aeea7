"""Training live: what runs now, how fast, how well, and on what it waits."""

from __future__ import annotations

from trainyard.dashboards.model import Dashboard, Kind, Needs, Panel, Query, Row, Variable

_RUN = '{site=~"$site", study=~"$study", run=~"$run"}'
_SITE = '{site=~"$site"}'
_LEGEND = "{{run}}"


def _live(title: str, text: str, metric: str, unit: str, **more: object) -> Panel:
    query = Query(expr=f"trainyard_run_{metric}{_RUN}", legend=_LEGEND)
    return Panel(title=title, description=text, queries=(query,), unit=unit, **more)  # type: ignore[arg-type]


def _stat(title: str, text: str, expr: str, unit: str, **more: object) -> Panel:
    return Panel(
        title=title, description=text, queries=(Query(expr=expr, legend=title),), unit=unit,
        kind=Kind.STAT, width=4, **more,  # type: ignore[arg-type]
    )  # fmt: skip


_NOW = Row(
    title="Now",
    panels=(
        _stat("Runs", "Runs that go on.", f"sum(trainyard_runs_active{_SITE})", "none"),
        _stat("Waiting", "Those that said nothing yet: queued, or starting.",
              f"sum(trainyard_runs_waiting{_SITE})", "none"),
        _stat("Longest wait", "How long the first of them has waited.",
              f"max(trainyard_runs_longest_wait_seconds{_SITE})", "s", warn=3600, bad=14400),
        _stat("Throughput of all", "Images per second over all runs that go on.",
              f"sum(trainyard_run_images_per_second{_RUN}) or vector(0)", "ops"),
        _stat("Beyond their limit", "Runs that their site should have ended: alert RunOverdue.",
              f"count(time() > trainyard_run_deadline_timestamp_seconds{_RUN}) or vector(0)",
              "none", bad=1),
        _stat("Not shown", "Runs beyond the exporter's --max-runs, which have no series.",
              "trainyard_runs_unlabelled", "none", warn=1),
        Panel(
            title="Progress",
            description="Share of the planned optimizer steps that are done.",
            queries=(Query(expr=f"trainyard_run_step{_RUN} / trainyard_run_planned_steps{_RUN}",
                           legend=_LEGEND),),
            unit="percentunit", kind=Kind.BARS, least=0, most=1,
        ),
        Panel(
            title="What they are",
            description="Configuration and launcher of each run; the last column is always 1.",
            queries=(Query(expr=f"trainyard_run_info{_RUN}"),), unit="none", kind=Kind.TABLE,
        ),
    ),
)  # fmt: skip

_SPEED = Row(
    title="How fast",
    panels=(
        _live("Throughput", "Images per second of all ranks, in the last timed window. A level "
              "line is good; a saw tooth is a machine shared with others.",
              "images_per_second", "ops", least=0),
        _live("Step time", "Seconds for each optimizer step, slowest rank.",
              "step_time_seconds", "s", least=0),
        _live("Wait for data", "Share of the window that rank 0 waited for its next batch. Above a "
              "tenth, more loader workers or faster storage pay.",
              "data_wait_ratio", "percentunit", warn=0.1, bad=0.3, least=0),
        _live("Rank imbalance", "(max - min) / max of the ranks' times. What the fast ranks wait "
              "for the slowest is lost.", "rank_imbalance_ratio", "percentunit", warn=0.05,
              bad=0.2, least=0),
    ),
)  # fmt: skip

_QUALITY = Row(
    title="How well",
    panels=(
        _live("Loss", "Mean loss for each sample in the last window, all ranks.", "loss", "none"),
        _live("Training accuracy", "Share of right answers while training, last epoch.",
              "train_accuracy_ratio", "percentunit", least=0, most=1),
        _live("Epochs", "Whole epochs done.", "epoch", "none", least=0),
        Panel(
            title="Flags",
            description="Why a number must not be compared; empty is good. A run gets its flags "
            "when it ends.",
            queries=(Query(expr=f"sum by (run, flag) (trainyard_run_flag{_RUN}) or vector(0)",
                           legend="{{run}} {{flag}}"),),
            unit="none", kind=Kind.TABLE,
        ),
    ),
)  # fmt: skip

_USE = Row(
    title="What they use",
    panels=(
        _live("Cores of its own", "Cores that all ranks of a run kept busy.", "cpu_busy_cores",
              "none", least=0),
        _live("Cores of others", "Cores kept busy by others on the worst node meanwhile: above "
              "0.1 the run is flagged and compared with nothing.", "foreign_load_cores", "none",
              warn=0.1, bad=0.5, least=0),
        _live("Memory", "Resident memory of rank 0.", "resident_memory_bytes", "bytes", least=0),
        _live("GPU memory", "What torch holds on rank 0's GPU.", "gpu_memory_bytes", "bytes",
              least=0, needs=Needs.GPU),
        _live("GPU utilisation", "Rank 0's GPU right after each window. Under a half for long: "
              "alert RunGpuUnderused.", "gpu_utilisation_ratio", "percentunit", least=0, most=1,
              needs=Needs.GPU),
    ),
)  # fmt: skip

TRAINING = Dashboard(
    uid="trainyard-training",
    title="Training live",
    description="Which runs go on, how fast, how well, and what do they wait for?",
    since="now-1h",
    refresh="10s",
    variables=(
        Variable(name="site", label="Site", metric="trainyard_runs_active", key="site"),
        Variable(name="study", label="Study", metric='trainyard_run_active{site=~"$site"}',
                 key="study"),
        Variable(name="run", label="Run", key="run",
                 metric='trainyard_run_active{site=~"$site", study=~"$study"}'),
    ),
    rows=(_NOW, _SPEED, _QUALITY, _USE),
)  # fmt: skip
