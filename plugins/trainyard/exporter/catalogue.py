"""Every metric the exporter may expose: one entry each, which docs/monitoring.md is tested against.

Live runs are labelled by ``RUN``; how many there are is bounded by ``LiveRuns``. Units are
Prometheus's base units: seconds, bytes, ratios from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

RUN = ("run", "study", "model", "ranks", "site")
CONFIG = ("suite", "site", "config", "ranks", "metric")
GAUGE, COUNTER = "gauge", "counter"


@dataclass(kw_only=True, slots=True, frozen=True)
class Metric:
    """One metric: its name, its labels and what it means."""

    name: str
    """Full name; a counter's ends in ``_total``."""
    labels: tuple[str, ...] = ()
    """Label names in order."""
    help: str
    """What a sample says, with its unit."""
    kind: str = GAUGE
    """gauge or counter."""


def _run(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=f"trainyard_run_{name}", labels=(*RUN, *labels), help=text)


def _benchmark(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=f"trainyard_benchmark_{name}", labels=(*CONFIG, *labels), help=text)


_LIVE = (
    _run("info", "1; what the run is.", "name", "dataset", "precision", "global_batch", "launcher"),
    _run("phase", "1 for the phase the run is in.", "phase"),
    _run("active", "1 while the run goes on, 0 for a while after its end."),
    _run("started_timestamp_seconds", "When its folder was made, seconds since 1970."),
    _run(
        "deadline_timestamp_seconds", "When its site's limit ends it, time in the queue included."
    ),
    _run("last_event_timestamp_seconds", "When it last wrote to metrics.jsonl."),
    _run("step", "Optimizer steps done, at the last timed window."),
    _run("planned_steps", "Optimizer steps of the whole run."),
    _run("epoch", "Whole epochs done."),
    _run("images_per_second", "Throughput of the last timed window, all ranks."),
    _run("step_time_seconds", "Seconds for each optimizer step in the last timed window."),
    _run("loss", "Mean training loss for each sample in the last timed window."),
    _run("train_accuracy_ratio", "Share of right answers while training, last epoch."),
    _run("data_wait_ratio", "Share of the last timed window that rank 0 waited for data."),
    _run("rank_imbalance_ratio", "(max - min) / max of the ranks' times in the last timed window."),
    _run("cpu_busy_cores", "Cores that all ranks kept busy in the last timed window."),
    _run("foreign_load_cores", "Cores that others kept busy on the worst node meanwhile."),
    _run("resident_memory_bytes", "Resident memory of rank 0 after the last timed window."),
    _run("gpu_memory_bytes", "GPU memory torch holds on rank 0; absent without a GPU."),
    _run("gpu_utilisation_ratio", "Utilisation of rank 0's GPU right after the last timed window."),
    _run("flag", "1 for each reason why its number must not be compared.", "flag"),
    Metric(name="trainyard_runs_active", labels=("site",), help="Runs that go on."),
    Metric(
        name="trainyard_runs_waiting",
        labels=("site",),
        help="Those of them that said nothing yet: in a queue, or just starting.",
    ),
    Metric(
        name="trainyard_runs_longest_wait_seconds",
        labels=("site",),
        help="How long the one among them that waits longest has waited; 0 when none waits.",
    ),
    Metric(
        name="trainyard_runs_unlabelled",
        help="Runs without series of their own: there are more than the exporter's --max-runs.",
    ),
    Metric(
        name="trainyard_run_folders", help="Run folders seen at the last look, ended ones included."
    ),
    Metric(
        name="trainyard_run_lines_skipped_total",
        help="Lines of metrics.jsonl that were no event; a run cut off half-way leaves one.",
        kind=COUNTER,
    ),
)

_STORED = (
    Metric(
        name="trainyard_runs_ended_total",
        labels=("site", "status", "reason"),
        help="Stored runs by how they ended; failed ones by the class of their reason.",
        kind=COUNTER,
    ),
    Metric(
        name="trainyard_run_last_ended_timestamp_seconds",
        labels=("site", "status"),
        help="When a run last ended so; absent before the first.",
    ),
    _benchmark("median", "Median over the runs of the last ended study, in the metric's unit."),
    _benchmark("low", "Lower end of its 95 % interval over runs; absent with a single run."),
    _benchmark("high", "Upper end of its 95 % interval over runs; absent with a single run."),
    _benchmark("runs", "Comparable runs behind it."),
    _benchmark("timestamp_seconds", "When that study began."),
    _benchmark("reference_low", "Lower end of what one more night is expected to measure."),
    _benchmark("reference_high", "Upper end of what one more night is expected to measure."),
    _benchmark("change_ratio", "Relative distance from the reference's centre."),
    Metric(
        name="trainyard_regression",
        labels=(*CONFIG, "state"),
        help="1 for the state of the configuration, 0 for the others (analysis/regression.py).",
    ),
    Metric(
        name="trainyard_nightly_expected",
        help="1 when settings.nightly_schedule has a cron line, 0 when nights are only triggered.",
    ),
    Metric(
        name="trainyard_nightly_last_ended_timestamp_seconds",
        labels=("site",),
        help="When the last nightly benchmark ended; absent before the first.",
    ),
    Metric(
        name="trainyard_nightly_last_success",
        labels=("site",),
        help="1 when every planned run of the last nightly benchmark completed, else 0.",
    ),
    Metric(
        name="trainyard_nightly_last_runs",
        labels=("site", "state"),
        help="Runs of the last nightly benchmark: planned, stored, completed, comparable.",
    ),
    Metric(
        name="trainyard_nightly_last_info",
        labels=("site", "study", "commit", "torch"),
        help="1; what the last nightly benchmark ran.",
    ),
)

_QUEUE = (
    Metric(
        name="trainyard_queue_jobs",
        labels=("site", "state"),
        help="Slurm jobs of ours: pending, running, ending.",
    ),
    Metric(
        name="trainyard_queue_oldest_pending_seconds",
        labels=("site",),
        help="How long the oldest pending job of ours has waited; 0 when none waits.",
    ),
)

_SELF = (
    Metric(
        name="trainyard_build_info",
        labels=("version", "commit", "image"),
        help="1; which Trainyard the exporter belongs to. Empty: unknown.",
    ),
    Metric(
        name="trainyard_source_up",
        labels=("source",),
        help="1 when the source's last reading is complete and fresh; else 0, its metrics absent.",
    ),
    Metric(
        name="trainyard_source_last_success_timestamp_seconds",
        labels=("source",),
        help="When the source was last read completely; absent before the first time.",
    ),
    Metric(
        name="trainyard_source_duration_seconds",
        labels=("source",),
        help="How long the last complete reading took.",
    ),
    Metric(
        name="trainyard_source_failures_total",
        labels=("source",),
        help="Readings that failed.",
        kind=COUNTER,
    ),
    Metric(
        name="trainyard_source_left_out",
        labels=("source", "reason"),
        help="1 for a source the exporter cannot read by its nature; nothing is known of it.",
    ),
)

CATALOGUE: dict[str, Metric] = {one.name: one for one in (*_LIVE, *_STORED, *_QUEUE, *_SELF)}


@dataclass(slots=True)
class Sheet:
    """Samples of one reading, by metric."""

    samples: dict[str, dict[tuple[str, ...], float]] = field(default_factory=dict)

    def put(self, name: str, value: float | None, *labels: str) -> None:
        """Note one sample; None means that nobody knows, and leaves it out.

        Raises ``KeyError`` for a metric that is not in the catalogue and ``ValueError`` for another
        number of labels than it has.
        """
        metric = CATALOGUE[name]
        if len(labels) != len(metric.labels):
            raise ValueError(f"{name} has the labels {metric.labels}, given {labels}")
        if value is not None:
            self.samples.setdefault(name, {})[labels] = float(value)


def families(sheets: Iterable[Sheet]) -> Iterator[Family]:
    """Yield what *sheets* hold as Prometheus's metric families, in the catalogue's order."""
    together: dict[str, dict[tuple[str, ...], float]] = {}
    for sheet in sheets:
        for name, samples in sheet.samples.items():
            together.setdefault(name, {}).update(samples)
    for name, metric in CATALOGUE.items():
        if name not in together:
            continue
        kind = GaugeMetricFamily if metric.kind == GAUGE else CounterMetricFamily
        family = kind(name, metric.help, labels=metric.labels)
        for labels, value in together[name].items():
            family.add_metric(labels, value)
        yield family
