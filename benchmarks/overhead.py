"""Airflow's and Trainyard's cost per task, against a chain of empty tasks in the same Airflow.

For a task, ``ready`` is the moment its last upstream task ended (or its DAG run started) and, in
the measuring pool of one slot, the moment the run before it ended. Its overhead is
``end - ready - own work``: own work is the time inside the task's code, and for a training task
the life of the training process plus the code that takes in its result.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from trainyard.local.api import AirflowApi
from trainyard.local.demo import DAG_ID, run_study
from trainyard.local.progress import follow
from trainyard.local.stack import Stack, running_stack
from trainyard.local.state import REPOSITORY

FLOOR = "benchmark_floor"
BENCH = REPOSITORY / "benchmarks" / "airflow"


def measure_overhead(root: Path) -> dict[str, Any]:
    """Run the floor chain and the demo study in one Airflow; return the ratios."""
    root.mkdir(parents=True)
    times = root / "body_times.jsonl"
    with running_stack(root, extra=_bench_environment(root, times)) as stack:
        stack.services.wait_until(lambda: stack.api.knows_dag(FLOOR), f"the DAG {FLOOR}", 90)
        floor_run = stack.api.trigger(FLOOR, {})
        follow(stack.api, FLOOR, floor_run, check=stack.services.check)
        conf: dict[str, object] = {"site": "local", "dataset": "digits", "preset": "demo"}
        outcome = run_study(stack, conf)
        if outcome.state != "success":
            raise RuntimeError(f"the study ended {outcome.state}; logs in {stack.paths.root}")
        bodies = _bodies(times)
        floor = _overheads(stack.api, FLOOR, floor_run, bodies, {})
        processes = _process_times(stack)
        study = _overheads(stack.api, DAG_ID, outcome.dag_run_id, bodies, processes)
        accuracy = _accuracy(stack, outcome.dag_run_id)
        wall = _wall(stack.api, outcome.dag_run_id)
    shell = _shell_loop(Path(stack.paths.runs), root / "shell")
    return _ratios(floor, study) | {
        "study_wall_s": round(wall, 1),
        "shell_loop_s": round(shell, 1),
        "overhead_share": round(1 - shell / wall, 3),
        "digits_test_accuracy": accuracy,
    }


def _bench_environment(root: Path, times: Path) -> dict[str, str]:
    plugins = root / "plugins"
    plugins.mkdir()
    for source in (REPOSITORY / "plugins").iterdir():
        (plugins / source.name).symlink_to(source)
    listener = BENCH / "plugins" / "body_times_plugin.py"
    (plugins / listener.name).symlink_to(listener)
    local = "airflow.dag_processing.bundles.local.LocalDagBundle"
    folders = {"dags-folder": REPOSITORY / "dags", "benchmark": BENCH / "dags"}
    bundles = [
        {"name": name, "classpath": local, "kwargs": {"path": str(path)}}
        for name, path in folders.items()
    ]
    return {
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "TRAINYARD_BODY_TIMES": str(times),
    }


Key = tuple[str, str, int]


def _bodies(times: Path) -> dict[Key, float]:
    """Return the seconds inside each task's code; for a resumed task, of its last part."""
    starts: dict[Key, float] = {}
    bodies: dict[Key, float] = {}
    for line in times.read_text().splitlines():
        entry = json.loads(line)
        key = (entry["run_id"], entry["task_id"], entry["map_index"])
        if entry["event"] == "start":
            starts[key] = entry["time"]
        else:
            bodies[key] = entry["time"] - starts[key]
    return bodies


def _process_times(stack: Stack) -> dict[tuple[str, int], float]:
    """Return the seconds each training process lived, by task and map index."""
    from trainyard.store import open_store

    with open_store(f"sqlite:///{stack.paths.results_db}") as store:
        rows = store.query("studies_recent", limit=1)
        runs = store.query("runs_of_dag_run", dag_id=DAG_ID, dag_run_id=rows[0]["dag_run_id"])
    found = {}
    for run in runs:
        folder = stack.paths.runs / run["run_id"]
        began = (folder / "process.json").stat().st_mtime
        ended = (folder / "exit_code").stat().st_mtime
        found[run["task_id"], run["map_index"]] = ended - began
    return found


def _overheads(
    api: AirflowApi,
    dag_id: str,
    run_id: str,
    bodies: dict[Key, float],
    processes: dict[tuple[str, int], float],
) -> dict[str, list[float]]:
    """Return the overhead of each task, plain and deferred apart."""
    upstream = _upstream(api, dag_id)
    tasks = [task for task in api.tasks(dag_id, run_id) if task.state == "success"]
    ends = {task.key: _seconds(task.end) for task in tasks}
    began = _seconds(api.run(dag_id, run_id)["start_date"])
    found: dict[str, list[float]] = {"plain": [], "deferred": []}
    for task in tasks:
        if (run_id, task.task_id, task.map_index) not in bodies:
            continue  # the scheduler ends an EmptyOperator itself: no process, nothing to compare
        before = [end for (name, _), end in ends.items() if name in upstream[task.task_id]]
        trained = processes.get(task.key)
        if trained is not None:
            # One slot: this run could not start before the runs ahead of it had ended.
            before += [ends[key] for key in processes if key in ends and ends[key] < ends[task.key]]
        ready = max(before, default=began)
        own = bodies[run_id, task.task_id, task.map_index] + (trained or 0.0)
        kind = "plain" if trained is None else "deferred"
        found[kind].append(ends[task.key] - ready - own)
    return found


def _upstream(api: AirflowApi, dag_id: str) -> dict[str, set[str]]:
    tasks = api.call("GET", f"/api/v2/dags/{dag_id}/tasks")["tasks"]
    found: dict[str, set[str]] = {task["task_id"]: set() for task in tasks}
    for task in tasks:
        for name in task["downstream_task_ids"]:
            found[name].add(task["task_id"])
    return found


def _seconds(text: str | None) -> float:
    if text is None:
        raise ValueError("a finished task has no end date")
    return datetime.fromisoformat(text).timestamp()


def _ratios(floor: dict[str, list[float]], study: dict[str, list[float]]) -> dict[str, Any]:
    base = statistics.median(floor["plain"])
    plain = statistics.median(study["plain"])
    deferred = statistics.median(study["deferred"])
    return {
        "floor_s": round(base, 3),
        "plain_overhead_s": round(plain, 3),
        "deferred_overhead_s": round(deferred, 3),
        "overhead_vs_floor": round(plain / base, 2),
        "deferred_vs_floor": round(deferred / base, 2),
        "plain_tasks": len(study["plain"]),
        "deferred_tasks": len(study["deferred"]),
    }


def _wall(api: AirflowApi, run_id: str) -> float:
    run = api.run(DAG_ID, run_id)
    return _seconds(run["end_date"]) - _seconds(run["start_date"])


def _accuracy(stack: Stack, dag_run_id: str) -> dict[str, list[float]]:
    """Return the test accuracies of the study by number of ranks."""
    from trainyard.store import open_store

    with open_store(f"sqlite:///{stack.paths.results_db}") as store:
        rows = store.query("studies_recent", limit=20)
        study = next(row for row in rows if row["dag_run_id"] == dag_run_id)
        runs: Iterable[dict[str, Any]] = store.query("study_runs", study_id=study["study_id"])
    found: dict[str, list[float]] = {}
    for run in runs:
        found.setdefault(str(run["ranks"]), []).append(run["test_accuracy"])
    return found


def _shell_loop(runs: Path, folder: Path) -> float:
    """Run the same launch scripts one after another from a loop; return the wall time."""
    scripts = []
    for run in sorted(runs.iterdir()):
        if not (run / "launch.sh").is_file():
            continue
        copy = folder / run.name
        copy.mkdir(parents=True)
        shutil.copy(run / "spec.json", copy)
        script = copy / "launch.sh"
        script.write_text((run / "launch.sh").read_text().replace(str(run), str(copy)))
        scripts.append(script)
    began = time.monotonic()
    for script in scripts:
        subprocess.run(["bash", str(script)], check=True)
    return time.monotonic() - began
