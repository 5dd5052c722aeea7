"""``ReconcileSlurmOperator``: finds jobs without a task and tasks without a job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from trainyard.backends.identity import TaskIdentity
from trainyard.backends.slurm import SlurmBackend
from trainyard.hooks.slurm import access_of
from trainyard.operators.abandoned import OVER, end_abandoned, identity_of
from trainyard.operators.forms import ALL_SITES
from trainyard.operators.retries import TASK_RETRIES
from trainyard.settings import load_settings
from trainyard.sites import Site, get_site, load_sites

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context


class ReconcileSlurmOperator(BaseOperator):
    """Compares the jobs of Slurm sites with the tasks that wait, reports, and cleans up if told.

    :param site: Name of a Slurm site, or ``all``. (templated)
    :param clean_up: Form field that says whether jobs without a task are cancelled.
    """

    template_fields: Sequence[str] = ("site",)

    def __init__(
        self, *, site: str = "{{ params.site }}", clean_up: str = "clean_up", **kwargs: Any
    ) -> None:
        """Keep the arguments."""
        kwargs.setdefault("retry_policy", TASK_RETRIES)
        super().__init__(**kwargs)
        self.site = site
        self.clean_up = clean_up

    def execute(self, context: Context) -> dict[str, dict[str, int]]:
        """Return how many findings of each kind each site has."""
        settings = load_settings()
        sites = load_sites(Path(settings.sites_file))
        chosen = sites if self.site == ALL_SITES else {self.site: get_site(self.site, sites)}
        found = {}
        for name, site in chosen.items():
            if site.slurm is None:
                self.log.info("Site %s is no Slurm site", name)
                continue
            found[name] = self._one(context, site)
        return found

    def _one(self, context: Context, site: Site) -> dict[str, int]:
        from trainyard import housekeeping
        from trainyard.store import open_store

        settings = load_settings()
        backend = SlurmBackend(site, access_of(site))
        stock = housekeeping.take_stock(site, backend, waiting)
        if context["params"].get(self.clean_up):
            stock = housekeeping.clean_up(stock, backend)
            # Those with a claim also get their row: they were asked to end, and by whom.
            end_abandoned(
                settings,
                lambda other: backend if other.slurm is not None else None,
                Path(site.runs_dir),
                identity_of(context),
            )
        self.log.info("%s", housekeeping.table(stock))
        with open_store(settings.results_url) as store:
            store.save_environment_checks(
                housekeeping.checks(stock, dag_run_id=identity_of(context).dag_run_id)
            )
        return {
            "jobs without a task": len(stock.orphans),
            "cancelled": len(stock.cancelled),
            "tasks without a job": len(stock.jobless),
            "tasks with their job": stock.matched,
            "nodes left out": len(stock.bad_nodes),
        }


def waiting(tasks: Sequence[TaskIdentity]) -> list[TaskIdentity]:
    """Return those of *tasks* that are not over, asking Airflow once for each DAG run.

    A task that Airflow does not know any more is over.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    found: list[TaskIdentity] = []
    runs = {(task.dag_id, task.dag_run_id) for task in tasks}
    for dag_id, dag_run_id in sorted(runs):
        mine = [task for task in tasks if (task.dag_id, task.dag_run_id) == (dag_id, dag_run_id)]
        answer = RuntimeTaskInstance.get_task_states(
            dag_id=dag_id, task_ids=sorted({task.task_id for task in mine}), run_ids=[dag_run_id]
        )
        states = answer.get(dag_run_id, {})
        for task in mine:
            mapped = f"{task.task_id}_{task.map_index}"
            key = task.task_id if task.map_index < 0 else mapped
            if key in states and states[key] not in OVER:
                found.append(task)
    return found
