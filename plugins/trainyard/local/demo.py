"""``make demo``: the nightly benchmark with the demo preset, followed live."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from trainyard.errors import UnavailableError
from trainyard.local.progress import follow
from trainyard.local.stack import Stack, running_stack

DAG_ID = "nightly_benchmark"


@dataclass(kw_only=True, slots=True, frozen=True)
class DemoOutcome:
    """What one demo left behind."""

    state: str
    dag_run_id: str
    report: Path | None
    seconds: float


def run_study(stack: Stack, conf: dict[str, object]) -> DemoOutcome:
    """Trigger the nightly benchmark on a running stack and follow it to its end."""
    stack.services.wait_until(lambda: stack.api.knows_dag(DAG_ID), f"the DAG {DAG_ID}", 90)
    run_id = f"demo-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    began = time.monotonic()
    stack.api.trigger(DAG_ID, conf, run_id)
    print(f"{DAG_ID} started as {run_id}: {stack.url}/dags/{DAG_ID}/runs/{run_id}", flush=True)
    state = follow(stack.api, DAG_ID, run_id, check=stack.services.check)
    return DemoOutcome(
        state=state,
        dag_run_id=run_id,
        report=find_report(stack, run_id),
        seconds=time.monotonic() - began,
    )


def find_report(stack: Stack, dag_run_id: str) -> Path | None:
    """Return the report of the study that *dag_run_id* made, if it came that far."""
    from trainyard.store import open_store

    with open_store(f"sqlite:///{stack.paths.results_db}") as store:
        rows = store.query("studies_recent", limit=50)
    paths = [row["report_path"] for row in rows if row["dag_run_id"] == dag_run_id]
    return Path(paths[0]) if paths and paths[0] else None


@contextmanager
def stack_for(root: Path, site: str, *, schedule: str = "") -> Iterator[Stack]:
    """Run the stack in *root* with what *site* needs beside it: a cluster, the trainer's image."""
    with ExitStack() as open_things:
        more: dict[str, Any] = {}
        if site == "slurm":
            from trainyard.local.slurm.site import cluster_site

            print("Starting a Slurm cluster …", flush=True)
            found = open_things.enter_context(cluster_site(root))
            more = {"extra": found.environment, "more_sites": found.sites}
            nodes = ", ".join(found.cluster.config.node_names)
            print(f"  cluster {found.cluster.config.name}, nodes {nodes}", flush=True)
        if site == "docker":
            from trainyard.local.docker import docker_site, end_runs

            more = {"more_sites": docker_site(root)}
            open_things.callback(end_runs, root)
        print("Starting the object store, MLflow and Airflow …", flush=True)
        yield open_things.enter_context(running_stack(root, schedule=schedule, **more))


def demo(root: Path, *, keep: bool, conf: dict[str, object]) -> int:
    """Run the demo with its state in *root*; return the exit code."""
    _turn_sigterm_into_interrupt()
    began = time.monotonic()
    with stack_for(root, str(conf.get("site", ""))) as stack:
        print(f"  ready after {time.monotonic() - began:.0f} s: {stack.url}", flush=True)
        outcome = run_study(stack, conf)
        _print_outcome(stack, outcome, keep)
        if keep:
            _wait_for_interrupt(stack)
    return 0 if outcome.state == "success" and outcome.report else 1


def serve(root: Path, *, schedule: str, site: str = "") -> int:
    """Run the stack with its state in *root* until Ctrl-C."""
    _turn_sigterm_into_interrupt()
    with stack_for(root, site, schedule=schedule) as stack:
        _print_login(stack)
        _wait_for_interrupt(stack)
    return 0


def _print_outcome(stack: Stack, outcome: DemoOutcome, keep: bool) -> None:
    print(f"\n{DAG_ID} ended: {outcome.state}, {outcome.seconds:.0f} s", flush=True)
    if outcome.report:
        print(f"\nReport:   {outcome.report}")
        pdf = outcome.report.with_suffix(".pdf")
        if pdf.is_file():
            print(f"          {pdf}")
    else:
        print(f"\nNo report was made. The logs: {stack.paths.airflow_home / 'logs'}")
    _print_login(stack)
    if not keep:
        print("\nThe stack stops now. To look around in it: make serve (or make demo KEEP=1)")


def _print_login(stack: Stack) -> None:
    print(f"Airflow:  {stack.url}   user admin, password {stack.secrets.admin_password}")
    print(f"MLflow:   {stack.mlflow_url}")
    print(f"Shell:    source {stack.paths.environment}   # then `airflow …` talks to this stack")


def _wait_for_interrupt(stack: Stack) -> None:
    print("\nPress Ctrl-C to stop everything.", flush=True)
    try:
        while True:
            stack.services.check()
            time.sleep(1)
    except KeyboardInterrupt:
        print("\nStopping …", flush=True)
    except UnavailableError as error:
        print(f"\n{error}\nStopping the rest …", flush=True)


def _turn_sigterm_into_interrupt() -> None:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
