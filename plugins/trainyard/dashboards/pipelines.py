"""Pipelines: what Airflow does, how long tasks wait and work, and whether its parts are alive."""

from __future__ import annotations

from trainyard.dashboards.model import Dashboard, Kind, Needs, Panel, Query, Row, Variable

_LENGTH = "airflow_dagrun_duration_seconds"
_DAG = 'dag_id=~"$dag"'


def _lines(title: str, text: str, unit: str, *queries: Query, **more: object) -> Panel:
    return Panel(title=title, description=text, queries=queries, unit=unit, **more)  # type: ignore[arg-type]


def _quantile(share: str, metric: str, by: str, choose: str = _DAG) -> str:
    labels = f"{{{choose}}}" if choose else ""
    return (
        f"histogram_quantile({share}, sum by (le, {by}) "
        f"(increase({metric}_bucket{labels}[$__range])))"
    )


_RUNS = Row(
    title="Pipelines",
    panels=(
        _lines("Ended", "DAG runs by how they ended, since the StatsD exporter's start.", "none",
               Query(expr=f"sum by (dag_id, state) ({_LENGTH}_count{{{_DAG}}})",
                     legend="{{dag_id}} {{state}}"), kind=Kind.BARS, least=0),
        _lines("Mean length", "Mean seconds from start to end, of the same runs.", "s",
               Query(expr=f"sum by (dag_id) ({_LENGTH}_sum{{{_DAG}}}) / "
                     f"sum by (dag_id) ({_LENGTH}_count{{{_DAG}}})",
                     legend="{{dag_id}}"), least=0),
        _lines("Running", "DAGs whose newest run is running.", "none",
               Query(expr="airflow_dagruns_running", legend="DAGs"), least=0),
    ),
)  # fmt: skip

_TASKS = Row(
    title="Tasks",
    panels=(
        _lines("Ended, a minute", "Tasks by the state they ended in; deferred ones come back.",
               "none",
               Query(expr=f"sum by (state) (rate(airflow_tasks_finished_total{{{_DAG}}}"
                     "[$__rate_interval])) * 60", legend="{{state}}"), least=0),
        _lines("Ended in all", "The same as counts, by task.", "none",
               Query(expr=f"sum by (task_id, state) (airflow_tasks_finished_total{{{_DAG}}})",
                     legend="{{task_id}} {{state}}"), kind=Kind.BARS, least=0),
        _lines("Work, 90th percentile", "Seconds a task worked; waiting in the triggerer is not in "
               "it.", "s", Query(expr=_quantile("0.9", "airflow_task_duration_seconds", "task_id"),
                                 legend="{{task_id}}"), least=0),
        _lines("Wait before the start, 90th percentile", "Seconds as scheduled or queued: seconds "
               "are Airflow's own pace, more is a full pool.", "s",
               Query(expr=_quantile("0.9", "airflow_task_wait_seconds", "state"),
                     legend="{{state}}"), warn=60, bad=600, least=0),
    ),
)  # fmt: skip

_POOLS = Row(
    title="Pools",
    panels=(
        _lines("Slots", "By pool and what they do; a run that trains holds its slot as deferred.",
               "none", Query(expr="airflow_pool_slots", legend="{{pool_name}} {{state}}"), least=0),
        _lines("Tasks that wait for a slot", "Measured runs wait here by design: one at a time.",
               "none", Query(expr="airflow_pool_starving_tasks", legend="{{pool_name}}"), least=0),
        _lines("Executor", "Open slots, queued and running tasks.", "none",
               Query(expr="airflow_executor_tasks", legend="{{status}}"), least=0),
    ),
)  # fmt: skip

_HEALTH = Row(
    title="Airflow's health",
    panels=(
        _lines("Heartbeats, a minute", "None for five minutes: AirflowComponentSilent.", "none",
               Query(expr="sum by (component) (rate(airflow_heartbeats_total[$__rate_interval]))"
                     " * 60", legend="{{component}}"), least=0),
        _lines("Scheduler's pass, 90th percentile", "Seconds; above a few, tasks start late.", "s",
               Query(expr=_quantile("0.9", "airflow_scheduler_loop_seconds", "job", ""),
                     legend="pass"), least=0, warn=5),
        _lines("Files that cannot be loaded", "DAG files with an import error.", "none",
               Query(expr="airflow_dag_import_errors", legend="files"), bad=1, least=0),
        _lines("Triggers", "Runs that are watched.", "none",
               Query(expr="airflow_triggers_running", legend="{{hostname}}"), least=0),
    ),
)  # fmt: skip

_SERVING = Row(
    title="Inference",
    panels=(
        _lines("Latency, 99th percentile", "Against its objective: InferenceLatencyOverObjective.",
               "s", Query(expr="trainyard:inference_latency_seconds:p99", legend="{{model}}"),
               least=0, needs=Needs.INFERENCE),
    ),
)  # fmt: skip

PIPELINES = Dashboard(
    uid="trainyard-pipelines",
    title="Pipelines",
    description="Which pipelines run, where do tasks wait, and is Airflow alive?",
    since="now-6h",
    refresh="30s",
    variables=(
        Variable(name="dag", label="DAG", metric="airflow_tasks_started_total", key="dag_id"),
    ),
    rows=(_RUNS, _TASKS, _POOLS, _HEALTH, _SERVING),
)
